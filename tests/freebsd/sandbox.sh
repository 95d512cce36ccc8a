# The laboratory in the sandbox: everybody is at home on loopback, and the sandbox process is the gateway's kernel.
# It needs no root and no FreeBSD. Sourced by run.
# shellcheck shell=sh disable=SC2034,SC2154

VIP=127.0.0.1 VIP6=::1
ADDRESS_1=127.0.0.1 ADDRESS_2=127.0.0.1 ADDRESS_3=127.0.0.1
SIX_1=::1 SIX_2=::1 SIX_3=::1
CLIENT_IF=lo0 MEMBER_IF=lo0
SOURCES="127.0.0.1 127.0.0.2 127.0.0.3"
RC_SUBR=$here/../rc.subr
RC_DEFAULTS=/dev/null
SKIP_CABLE="members of the sandbox have no interfaces" SKIP_STICKY='' SKIP_SIX=''

on()
{
	shift
	cd / && exec "$@"
}

lab_needs()
{
	"$PYTHON" -c 'import l4ipd.sandbox' 2>/dev/null ||
	    bail_out "$PYTHON does not find l4ipd's sandbox: set PYTHON to the interpreter that $L4IPD is installed for"
	can_bind ::1 || SKIP_SIX="there is no ::1 here"
	for source in $SOURCES; do
		can_bind "$source" || SKIP_STICKY="$source is no address of this machine"
	done
}

can_bind()
{
	"$PYTHON" -c 'import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
socket.create_server((sys.argv[1], 0), family=family)' "$1" 2>/dev/null
}

lab_up()
{
	# shellcheck disable=SC2046	# into words
	set -- $("$PYTHON" "$here/clients.py" ports 8)
	PORT_1=$1 PORT_2=$2 PORT_3=$3 HTTP=$4 HEAVY=$5 STICKY=$6 SPARE=$7 FOREIGN=$8
	mkdir "$work/bin" || return
	for tool in ipnat ipf ipfstat ipmon; do
		printf '#!/bin/sh\nexec "%s" -m l4ipd.sandbox -s "%s" %s "$@"\n' "$PYTHON" "$work/ipfilter.sock" "$tool" \
		    > "$work/bin/$tool" && chmod +x "$work/bin/$tool" || return
	done
	PATH=$work/bin:$PATH
	TOOLS="resync: 500ms, ipnat: $work/bin/ipnat, ipf: $work/bin/ipf, ipfstat: $work/bin/ipfstat, ipmon: $work/bin/ipmon"
	spawn gw "$PYTHON" -m l4ipd.sandbox -s "$work/ipfilter.sock" --ipfilter 5.1.2 serve > "$work/sandbox" 2>&1
	within 30 grep -q ready "$work/sandbox"
}

ipmon_start()
{
	spawn gw ipmon -D -v -P "$work/ipmon.pid" "$work/ipf.log"
}

# what rc.d/ipnat does
ipnat_reload()
{
	at gw ipnat -F -C -f "$work/ipnat.rules"
}

lab_down()
{
	:
}

lab_left()
{
	:
}
