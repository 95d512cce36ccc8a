# What the steps do with hosts, members, clients and the daemon, on whatever laboratory they are. Sourced by run.
# shellcheck shell=sh disable=SC2034,SC2154

daemon='' held='' burst='' took='' clock=''

# at HOST COMMAND...: run it there
at()
{
	( exec 3>&-; on "$@" )
}

# spawn HOST COMMAND...: in the background there; its process is $spawned
spawn()
{
	( exec 3>&-; on "$@" ) &
	spawned=$!
	started="$started $spawned"
}

# joined PID: it has ended by itself; its status. A signal ends this at once, which it would not do in $(...).
joined()
{
	wait "$1" 2>/dev/null
	status=$?
	started=$(echo " $started " | sed "s/ $1 / /")
	return "$status"
}

# end SIGNAL PID: a process of ours; one that does not listen is killed
end()
{
	kill "-$1" "$2" 2>/dev/null
	within 10 dead "$2" || kill -KILL "$2" 2>/dev/null
	joined "$2"
	return 0
}

dead()
{
	case $(ps -o stat= -p "$1" 2>/dev/null) in
	''|Z*) return 0 ;;
	esac
	return 1
}

# within SECONDS COMMAND...: until it succeeds
within()
{
	limit=$(($(date +%s) + $1))
	shift
	until "$@"; do
		[ "$(date +%s)" -le "$limit" ] || return 1
		sleep 0.1
	done
}

end_everybody()
{
	[ -z "$daemon" ] || end TERM "$daemon"
	for file in "$work/l4ip.pid" "$work/ipmon.pid"; do
		[ ! -s "$file" ] || kill "$(cat "$file")" 2>/dev/null
	done
	for process in $started; do
		end KILL "$process"
	done
}

# -- members

# member_up NUMBER
member_up()
{
	eval "address=\$ADDRESS_$1 six=\$SIX_$1 port=\$PORT_$1"
	set -- "$1" "$address,$port"
	[ -n "$SKIP_SIX" ] || set -- "$@" "$six,$port"
	number=$1
	shift
	spawn "m$number" "$PYTHON" "$here/member.py" "m$number" "$@"
	eval "member_$number=$spawned"
}

# member_down NUMBER: nobody listens there any more; who is connected goes on
member_down()
{
	eval "end KILL \$member_$1"
}

# rules_of NUMBER: a pattern for the rules that lead to that member
rules_of()
{
	eval "address=\$ADDRESS_$1 six=\$SIX_$1 port=\$PORT_$1"
	echo "^rdr .* -> ($address/32|$six/128) port $port "
}

# -- what is in the kernel

# watch COUNT PATTERN COMMAND...: see clients.py. When it is so, $took is how long that took, and $clock when.
watch()
{
	spawn gw "$PYTHON" "$here/clients.py" watch "$@" > "$work/watched"
	joined "$spawned" || return
	read -r took clock < "$work/watched"
}

# rule_gone NUMBER: the rule of www/http
rule_gone()
{
	watch 0 "^rdr .* $VIP/32 port $HTTP .*$(rules_of "$1" | sed 's/.*-> //')" ipnat -l
}

# gone NUMBER, back NUMBER: all rules of a member
gone()
{
	watch 0 "$(rules_of "$1")" ipnat -l
}

back()
{
	eval "count=\$rules_$1"
	watch "$count" "$(rules_of "$1")" ipnat -l
}

whole()
{
	watch "$rules" '^rdr .* tag l4ip' ipnat -l
}

log_rules()
{
	watch 3 "^log in on $MEMBER_IF (inet )?proto tcp .* flags R/R set-tag" ipfstat -iR
}

# since CLOCK: seconds from there to $clock
since()
{
	echo "$1 $clock" | awk '{ printf "%.2f s", $2 - $1 }'
}

# -- clients

# ask ADDRESS PORT COUNT [SOURCE]: that many clients, one after the other; who answered is in $answers
ask()
{
	where="$1 $2" count=$3
	shift 3
	# shellcheck disable=SC2086	# into words
	spawn client "$PYTHON" "$here/clients.py" burst $where "$@" --count "$count" --interval 0.01 > "$work/asked"
	joined "$spawned"
	answers=$(cut -d ' ' -f 2 "$work/asked" | tr '\n' ' ')
	answers=${answers% }
}

# alone: without sessions that are over and still known. A client whose port is the same as that of one of these would
# get its member and not the next, or, for another service of the same member, pass that one over.
alone()
{
	at gw ipnat -F > /dev/null
}

# burst_begin PORT [ADDRESS]: clients until burst_end, in $work/burst
burst_begin()
{
	rm -f "$work/burst.end"
	spawn client "$PYTHON" "$here/clients.py" burst "${2:-$VIP}" "$1" --until "$work/burst.end" > "$work/burst"
	burst=$spawned
	within 30 burst_has 6
}

burst_has()
{
	[ $(($(wc -l < "$work/burst"))) -ge "$1" ]
}

burst_end()
{
	: > "$work/burst.end"
	joined "$burst"
	all=$(grep -c . "$work/burst")
	refused=$(grep -c ' refused$' "$work/burst")
	lost=$(grep -cv ' m[123]$' "$work/burst")
	first=$(sed -n 's/ refused$//p' "$work/burst" | head -n 1)
}

# hold PORT COUNT: sessions that stay, until held_tell
hold()
{
	rm -f "$work/held.end"
	spawn client "$PYTHON" "$here/clients.py" hold "$VIP" "$1" "$2" "$work/held.end" > "$work/held"
	held=$spawned
	within 30 held_has "$2"
}

held_has()
{
	[ $(($(wc -l < "$work/held"))) -ge "$1" ]
}

# held_tell: lines of "NAME alive", or ended, or silent, are in $work/held now
held_tell()
{
	: > "$work/held.end"
	joined "$held"
	note "sessions: $(grep ' ' "$work/held" | sort | uniq -c | tr -s ' \n' ' ,')"
}

# held_alive NAME, held_dead NAME: all sessions with that member are so, and there are some
held_alive()
{
	[ "$(grep -c "^$1\$" "$work/held")" -gt 0 ] &&
	    [ "$(grep -c "^$1 alive\$" "$work/held")" -eq "$(grep -c "^$1\$" "$work/held")" ]
}

held_dead()
{
	[ "$(grep -c "^$1\$" "$work/held")" -gt 0 ] && ! grep -q "^$1 alive\$" "$work/held"
}

# -- the daemon

configure()
{
	cat > "$work/l4ip.conf" <<-END
	pidfile: $work/l4ip.pid
	control: $work/l4ip.sock
	state: $work/state.json
	log: {level: $2}
	ipfilter: {interface: $CLIENT_IF${TOOLS:+, $TOOLS}}
	resets: {interface: $MEMBER_IF, source: $1}
	defaults: {interval: 2s, timeout: 2s, rise: 1, fall: 2, fast_interval: 2s, flap: no}
	clusters:
	  www:
	    address: $VIP
	    services: {http: {port: $HTTP, check: ${3:-tcp}}}
	    members: {m1: $(place 1), m2: $(place 2), m3: $(place 3)}
	  heavy:
	    address: $VIP
	    services: {http: {port: $HEAVY, check: tcp}}
	    members: {m1: $(place 1), m2: $(place 2 ', weight: 2')}
	  sticky:
	    address: $VIP
	    services: {http: {port: $STICKY, sticky: yes, check: tcp}}
	    members: {m1: $(place 1), m2: $(place 2), m3: $(place 3)}
	  spare:
	    address: $VIP
	    services: {http: {port: $SPARE, check: tcp}}
	    members: {m1: $(place 1), m3: $(place 3 ', fallback: yes')}
	END
	[ -n "$SKIP_SIX" ] || cat >> "$work/l4ip.conf" <<-END
	  six:
	    address: '$VIP6'
	    services: {http: {port: $HTTP, check: tcp}}
	    members: {m1: $(place_six 1), m2: $(place_six 2), m3: $(place_six 3)}
	END
}

place()
{
	eval "echo \"{address: \$ADDRESS_$1, port: \$PORT_$1\${2:-}}\""
}

place_six()
{
	eval "echo \"{address: '\$SIX_$1', port: \$PORT_$1}\""
}

daemon_start()
{
	spawn gw "$L4IPD" -d -c "$work/l4ip.conf" 2>> "$work/log"
	daemon=$spawned
	within 30 settled && daemon_answers
}

settled()
{
	daemon_answers || dead "$daemon"
}

daemon_answers()
{
	at gw "$L4IPCTL" -s "$work/l4ip.sock" show > "$work/show" 2>&1
	[ $? -le 1 ]
}

# daemon_end SIGNAL
daemon_end()
{
	end "$1" "$daemon"
	daemon=''
}

ctl()
{
	at gw "$L4IPCTL" -s "$work/l4ip.sock" "$@" > "$work/ctl" 2>&1
}

# agreed: the kernel has what is wanted
agreed()
{
	ctl rules && grep -q 'nothing differs$' "$work/ctl"
}

# hears SOURCE: resets are read there
hears()
{
	daemon_answers && grep -q "^resets: $1 alive" "$work/show"
}

# said PATTERN: in the log since mark
mark()
{
	marked=$(($(wc -l < "$work/log")))
}

said()
{
	tail -n "+$((marked + 1))" "$work/log" | grep -qE "$1"
}

# -- rc.d(8)

# rc_script FILE: a copy of it in $work/rc.d, which reads the settings of the test, and not those of the machine
rc_script()
{
	mkdir -p "$work/rc.d"
	cat > "$work/rc.d/settings" <<-END
	load_rc_config()
	{
		. $RC_DEFAULTS
		l4ip_enable=YES l4ip_config=$work/l4ip.conf l4ip_program=$L4IPD l4ip_svcj=NO
		ipnat_rules=$work/ipnat.rules ipnat_svcj=NO
	}
	END
	sed "s|^\. /etc/rc\.subr|. $RC_SUBR; . $work/rc.d/settings|" "$1" > "$work/rc.d/${1##*/}" &&
	    grep -q settings "$work/rc.d/${1##*/}"
}

# service NAME COMMAND: with the surroundings that service(8) gives
service()
{
	at gw env -i HOME=/ PATH=/sbin:/bin:/usr/sbin:/usr/bin sh "$work/rc.d/$1" "$2" > "$work/service" 2>&1 < /dev/null
}

# -- when something went wrong

explain()
{
	{
		echo "the log:"
		tail -n 15 "$work/log"
		echo "l4ipctl show:"
		at gw "$L4IPCTL" -s "$work/l4ip.sock" show
		echo "ipnat -l:"
		at gw ipnat -l | grep '^rdr'
	} 2>&1 | cut -c 1-200 | note
}
