# The laboratory on FreeBSD: the client, the gateway and three members as jails with network stacks of their own.
#
#     client ---- GWca [ gw: rdr on GWca ] bridge0 -+-- m1
#                                                   |-- m2
#                                                   '-- m3
#
# The gateway's jail has an IPFilter of its own, as every network stack has: no rule of the machine is read or changed.
# All that is made has a name that begins with $P, and lab_down finds it by that name.
# Sourced by run. Addresses are those of RFC 5737 and 3849, and exist inside the jails only.
# shellcheck shell=sh disable=SC2034,SC2154

HOSTS="client gw m1 m2 m3"
VIP=203.0.113.10 VIP6=2001:db8:1::10
ADDRESS_1=10.0.0.11 ADDRESS_2=10.0.0.12 ADDRESS_3=10.0.0.13
SIX_1=fd00::11 SIX_2=fd00::12 SIX_3=fd00::13
PORT_1=8080 PORT_2=8080 PORT_3=8080
HTTP=80 HEAVY=81 STICKY=82 SPARE=83 FOREIGN=99
SOURCES="198.51.100.2 198.51.100.3 198.51.100.4"
RC_SUBR=${RC_SUBR:-/etc/rc.subr}
RC_DEFAULTS=${RC_DEFAULTS:-/etc/defaults/rc.conf}
RC_IPNAT=${RC_IPNAT:-/etc/rc.d/ipnat}
TOOLS=''
SKIP_CABLE='' SKIP_STICKY='' SKIP_SIX=''
unnamed=''

# on HOST COMMAND...: become the command there; to be called in a process of its own
on()
{
	host=$1
	shift
	exec jexec "$P$host" "$@"
}

lab_needs()
{
	[ "$(uname -s)" = FreeBSD ] || bail_out "this is no FreeBSD; run -s plays the same in the sandbox"
	release=$(uname -r)
	[ "${release%%[!0-9]*}" -ge 13 ] || bail_out "FreeBSD 13 or later is needed, this is $release"
	[ "$(id -u)" = 0 ] || bail_out "jails and network interfaces can be made by root only"
	[ "$(sysctl -n kern.features.vimage 2>/dev/null)" = 1 ] || bail_out "this kernel has no VIMAGE"
	kldstat -q -m ipfilter || bail_out "IPFilter is not in the kernel: kldload ipl"
	[ "$(sysctl -n kern.securelevel)" -lt 3 ] || bail_out "at securelevel 3 IPFilter takes no rules"
	for module in epair bridge; do
		ifconfig -C | grep -qw "$module" || bail_out "the kernel knows no $module: kldload if_$module"
	done
	for tool in jail jexec jls route ipf ipnat ipfstat ipmon; do
		command -v "$tool" > /dev/null || bail_out "there is no $tool in PATH"
	done
	[ "$(sysctl -n kern.features.inet6 2>/dev/null)" = 1 ] || SKIP_SIX="this kernel has no IPv6"
}

lab_up()
{
	for cable in c m1 m2 m3; do
		pair "$cable"
	done
	box client "$P"cb
	box gw "$P"ca "$P"m1a "$P"m2a "$P"m3a
	for number in 1 2 3; do
		box "m$number" "${P}m${number}b"
	done
	lab_gateway || return
	lab_client || return
	for number in 1 2 3; do
		cable "$number" up || return
	done
}

# pair NAME: an epair, its ends called $P NAME a and b. ^C waits until it is known what has been made.
pair()
{
	unnamed=$(trap '' INT HUP; exec ifconfig epair create) || bail_out "ifconfig could not create an epair"
	plain "$unnamed"
	ifconfig "${unnamed%a}b" name "$P${1}b" > /dev/null || bail_out "ifconfig could not rename an epair"
	ifconfig "$unnamed" name "$P${1}a" > /dev/null || bail_out "ifconfig could not rename an epair"
	unnamed=
}

# plain INTERFACE: no offloading where an epair can do that: what it leaves out NAT would have to correct
plain()
{
	for end in "$1" "${1%a}b"; do
		for capability in -txcsum -txcsum6 -tso -lro; do
			ifconfig "$end" "$capability" 2>/dev/null || :
		done
	done
}

# box HOST INTERFACE...: a jail with these interfaces
box()
{
	name=$P$1
	shift
	interfaces=
	for interface; do
		interfaces="$interfaces vnet.interface=$interface"
	done
	# shellcheck disable=SC2086	# into words
	jail -c name="$name" path=/ host.hostname="$name" persist vnet $interfaces > /dev/null ||
	    bail_out "jail could not create $name"
	jexec "$name" ifconfig lo0 inet 127.0.0.1/8 up
}

lab_gateway()
{
	CLIENT_IF=${P}ca
	at gw ifconfig "$CLIENT_IF" inet 198.51.100.1/24 up &&
	    at gw ifconfig "$CLIENT_IF" inet "$VIP/32" alias &&
	    MEMBER_IF=$(at gw ifconfig bridge create) &&
	    at gw ifconfig "$MEMBER_IF" inet 10.0.0.1/24 up || return
	for number in 1 2 3; do
		at gw ifconfig "${P}m${number}a" up &&
		    at gw ifconfig "$MEMBER_IF" addm "${P}m${number}a" || return
	done
	at gw sysctl net.inet.ip.forwarding=1 > /dev/null || return
	if [ -z "$SKIP_SIX" ]; then
		at gw ifconfig "$CLIENT_IF" inet6 2001:db8:1::1/64 no_dad -ifdisabled &&
		    at gw ifconfig "$CLIENT_IF" inet6 "$VIP6/128" alias &&
		    at gw ifconfig "$MEMBER_IF" inet6 fd00::1/64 no_dad -ifdisabled &&
		    at gw sysctl net.inet6.ip6.forwarding=1 > /dev/null || return
	fi
	at gw ipf -V | grep -q 'Running: yes' || at gw ipf -E || return
	at gw ipf -V | grep -q 'Default: pass' || bail_out "this IPFilter blocks by default: the test has no rules for that"
}

lab_client()
{
	bits=24
	for source in $SOURCES; do
		at client ifconfig "${P}cb" inet "$source/$bits" alias || return
		bits=32
	done
	at client ifconfig "${P}cb" up || return
	at client route add default 198.51.100.1 > /dev/null || return
	[ -n "$SKIP_SIX" ] || at client ifconfig "${P}cb" inet6 2001:db8:1::2/64 no_dad -ifdisabled
}

# cable NUMBER up | down: the interface of a member. The way out is lost with the interface, and comes again with it.
cable()
{
	end=${P}m${1}b
	if [ "$2" = down ]; then
		at "m$1" ifconfig "$end" down
		return
	fi
	eval "address=\$ADDRESS_$1 six=\$SIX_$1"
	at "m$1" ifconfig "$end" inet "$address/24" up || return
	at "m$1" route add default 10.0.0.1 > /dev/null 2>&1
	if [ -z "$SKIP_SIX" ]; then
		at "m$1" ifconfig "$end" inet6 "$six/64" no_dad -ifdisabled || return
		at "m$1" route add -6 default fd00::1 > /dev/null 2>&1
	fi
	return 0
}

# The system's ipmon writes a file. Both paths are absolute, as -D wants them.
ipmon_start()
{
	at gw ipmon -D -v -P "$work/ipmon.pid" "$work/ipf.log"
}

ipnat_reload()
{
	rc_script "$RC_IPNAT" && service ipnat onereload
}

# An interface that is left in a jail would stay there for as long as the jail has connections in TIME_WAIT: so the
# interfaces first. Whatever there is not any more, or not yet, is no error here.
lab_down()
{
	[ -z "$unnamed" ] || ifconfig "$unnamed" destroy
	for cable in c m1 m2 m3; do
		reclaim "$P${cable}a" gw
	done
	for host in $HOSTS; do
		jail -r "$P$host"
	done
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		left=$(interfaces_left)
		[ -n "$left" ] || break
		sleep 1
		for interface in $left; do
			ifconfig "$interface" destroy
		done
	done
} > /dev/null 2>&1

# reclaim INTERFACE HOST: take it out of the jail, and destroy it; both ends of an epair go together
reclaim()
{
	ifconfig "$1" -vnet "$P$2"
	ifconfig "$1" destroy || jexec "$P$2" ifconfig "$1" destroy
}

interfaces_left()
{
	ifconfig -l | tr ' ' '\n' | grep "^$P"
}

lab_left()
{
	interfaces_left
	jls name | grep "^$P"
}
