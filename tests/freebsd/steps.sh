# The scenario, the same on every laboratory. Times are told, never judged; what is waited for may take a minute.
# Sourced by run.
# shellcheck shell=sh disable=SC2034,SC2154

all_steps()
{
	count_rules
	step_start
	step_rotation
	step_killed
	step_cable
	step_flushed
	step_restarts
	step_weights
	step_sticky
	step_fallback
	step_drain
	step_six
	step_counters
	step_file
	step_rc
	prove "a rule that is not ours was never touched" foreign_rule
}

# how many rules lead to each member while all are up
count_rules()
{
	rules_1=4 rules_2=4 rules_3=2
	[ -n "$SKIP_SIX" ] || { rules_1=5 rules_2=5 rules_3=3; }
	rules=$((rules_1 + rules_2 + rules_3))
	echo "rdr $CLIENT_IF $VIP/32 port $FOREIGN -> $ADDRESS_1 port 9 tcp" > "$work/ipnat.rules"
}

foreign_rule()
{
	at gw ipnat -l | grep "^rdr $CLIENT_IF $VIP/32 port $FOREIGN -> $ADDRESS_1/32 port 9 tcp"'$' > /dev/null
}

step_start()
{
	for number in 1 2 3; do
		member_up "$number"
	done
	at gw ipnat -f "$work/ipnat.rules" || bail_out "ipnat takes no rule"
	configure ipmon debug
	: > "$work/log"
	mark
	daemon_start || { explain; bail_out "l4ipd does not start"; }
	ok "l4ipd starts, and answers"
	prove "every rule is loaded, and listed as it should be" whole
	note "whole $took s after the start"
	prove "l4ipctl rules says the same" within 30 agreed
	prove "every member has its log rule" log_rules
	within 30 hears ipmon || bail_out "l4ipd starts no ipmon"
}

step_rotation()
{
	alone
	ask "$VIP" "$HTTP" 9
	prove "nine clients reach three members in turn: $answers" in_turn
}

in_turn()
{
	# shellcheck disable=SC2086	# into words
	set -- $answers
	[ $# -eq 9 ] && [ "$1 $2 $3" = "$4 $5 $6" ] && [ "$1 $2 $3" = "$7 $8 $9" ] && all_three
}

all_three()
{
	[ "$(echo "$answers" | tr ' ' '\n' | sort -u | tr '\n' ' ')" = "m1 m2 m3 " ]
}

step_killed()
{
	hold "$HTTP" 6
	mark
	burst_begin "$HTTP"
	member_down 2
	prove "a member's service is killed: the rule that clients met is gone" rule_gone 2
	burst_end
	prove "a client was refused" [ "$refused" -ge 1 ]
	note "$refused of $all clients were refused; the rule was gone $(since "$first") after the first"
	prove "the refusal was seen by ipmon" said 'www/http/m2 .* up -> down: RST connection refused, seen by ipmon'
	prove "its other rules go, too" gone 2
	ask "$VIP" "$HTTP" 12
	prove "after that nobody is refused: $answers" only m1 m3
	held_tell
	prove "the dead service's sessions are ended" held_dead m2
	prove "the others' are alive" others_alive
	member_up 2
	prove "the service is back: so are its rules" back 2
	alone
	ask "$VIP" "$HTTP" 9
	prove "and its turn: $answers" in_turn
}

others_alive()
{
	held_alive m1 && held_alive m3
}

# only NAME...: these answered, each of them, and nobody else
only()
{
	[ "$(echo "$answers" | tr ' ' '\n' | sort -u | tr '\n' ' ')" = "$* " ]
}

step_cable()
{
	down="a member's interface is down: its rules go" up="it is up again: they come back"
	if [ -n "$SKIP_CABLE" ]; then
		skip "$SKIP_CABLE" "$down" "$up"
		return
	fi
	mark
	cable 2 down
	prove "$down" gone 2
	note "$took s after; $(tail -n "+$((marked + 1))" "$work/log" | grep -m 1 'www/http/m2 .* up -> down')"
	cable 2 up
	prove "$up" back 2
	note "$took s after"
}

step_flushed()
{
	repaired "ipnat -CF" whole at gw ipnat -CF
	at gw ipnat -f "$work/ipnat.rules"
	repaired "ipf -Fa" log_rules at gw ipf -Fa
	repaired "service ipnat reload" whole ipnat_reload
}

# repaired TEXT TEST COMMAND...: it flushes, and the test says that all is there again
repaired()
{
	text="what $1 removes is put back" check=$2
	shift 2
	mark
	if ! "$@" > /dev/null; then
		not_ok "$text"
		return
	fi
	prove "$text" put_back "$check"
	note "$took s after it"
}

put_back()
{
	"$1" && within 5 said 'removed by somebody else|put back'
}

step_restarts()
{
	burst_begin "$HTTP"
	daemon_end KILL
	mark
	prove "l4ipd starts after a kill -9" daemon_start
	prove "it adopts the rules that are there" adopted
	burst_end
	prove "no client was lost meanwhile" [ "$lost" -eq 0 ]
	note "$all clients came"
	burst_begin "$HTTP"
	daemon_end TERM
	prove "the rules stay when it stops" whole
	prove "stopped at once, before it has read the table: they stay" stopped_at_once
	mark
	daemon_start
	prove "and are adopted by the next" adopted
	burst_end
	prove "stopped and started: no client was lost" [ "$lost" -eq 0 ]
	note "$all clients came"
}

# Its ipnat takes its time for a listing. It is told to stop when the first is under way.
stopped_at_once()
{
	# shellcheck disable=SC2016	# for the script that is written
	printf '#!/bin/sh\ncase $1 in -l) : > "%s"; sleep 2 ;; esac\nexec %s "$@"\n' "$work/listing" \
	    "$(at gw sh -c 'command -v ipnat')" > "$work/late" && chmod +x "$work/late" || return
	rm -f "$work/listing"
	tools=${TOOLS:-} TOOLS="$(echo "${TOOLS:-}" | sed 's/ipnat: [^,]*, //')"
	TOOLS="ipnat: $work/late${TOOLS:+, $TOOLS}"
	configure ipmon debug
	TOOLS=$tools
	spawn gw "$L4IPD" -d -c "$work/l4ip.conf" 2>> "$work/log"
	daemon=$spawned
	within 30 [ -e "$work/listing" ] || return
	mark
	daemon_end TERM
	configure ipmon debug
	said 'l4ipd stopped' && ! said 'ipnat: (add|drain|purge)' && whole
}

# When all have been probed, every rule is there, and not one was added or removed.
adopted()
{
	ctl check '*' && within 30 agreed && whole && ! said 'ipnat: (add|drain|purge)'
}

step_weights()
{
	alone
	ask "$VIP" "$HEAVY" 9
	prove "a member of weight 2 gets twice as many: $answers" weighed
}

weighed()
{
	only m1 m2 && [ "$(echo "$answers" | tr ' ' '\n' | grep -c m2)" -eq 6 ]
}

step_sticky()
{
	text="sticky: each client stays with its member"
	if [ -n "$SKIP_STICKY" ]; then
		skip "$SKIP_STICKY" "$text"
		return
	fi
	alone
	all='' strayed=0
	for source in $SOURCES; do
		ask "$VIP" "$STICKY" 4 "$source"
		all="$all$answers, "
		only "${answers%% *}" || strayed=$((strayed + 1))
	done
	prove "$text: ${all%, }" [ "$strayed" -eq 0 ]
}

step_fallback()
{
	alone
	ask "$VIP" "$SPARE" 4
	prove "a fallback gets nothing while others are up: $answers" only m1
	burst_begin "$SPARE"
	member_down 1
	gone 1
	prove "it serves when they are down" within 30 serves_spare 3
	burst_end
	member_up 1
	back 1
	prove "and is left when they are back" within 30 serves_spare 1
	note "$((all - lost)) of $all clients were served meanwhile"
}

serves_spare()
{
	ask "$VIP" "$SPARE" 2
	only "m$1"
}

step_drain()
{
	hold "$HTTP" 6
	prove "a member is taken out by l4ipctl disable" ctl disable www/http/m3
	ask "$VIP" "$HTTP" 6
	prove "it gets nobody new: $answers" only m1 m2
	held_tell
	prove "its sessions go on" held_alive m3
	ctl enable www/http/m3
	prove "enabled, it is back" back 3
}

step_six()
{
	first="IPv6: clients reach three members in turn" second="IPv6: a refused client takes a member out"
	third="IPv6: it comes back"
	if [ -n "$SKIP_SIX" ]; then
		skip "$SKIP_SIX" "$first" "$second" "$third"
		return
	fi
	alone
	ask "$VIP6" "$HTTP" 9
	prove "$first: $answers" in_turn
	mark
	burst_begin "$HTTP" "$VIP6"
	member_down 1
	gone 1
	burst_end
	prove "$second" said 'six/http/m1 .* up -> down: RST connection refused, seen by ipmon'
	note "$refused of $all clients were refused"
	member_up 1
	prove "$third" back 1
}

# By itself it would be ten minutes until the next probe: what brings it is the counter.
step_counters()
{
	configure counters debug "{type: tcp, interval: 10m, fall: 1, fast_interval: 1s, down_interval: 1s}"
	ctl reload
	prove "counters: every member has its counting rule" \
	    watch 3 "^[0-9]+ [0-9]+ count in on $MEMBER_IF (inet )?proto tcp .* flags R/R" ipfstat -aihR
	keep_state | at gw ipf -f - || note "ipf did not take rules that keep state"
	ctl check www
	mark
	burst_begin "$HTTP"
	member_down 2
	prove "a dead service is found under keep state" within 60 said 'www/http/m2 .* up -> down: L4CON'
	gone 2
	burst_end
	note "$refused of $all clients were refused"
	prove "its resets were counted" \
	    watch 1 "^[1-9][0-9]* [0-9]+ count in .* from $ADDRESS_2/32 port = $PORT_2 " ipfstat -aihR
	keep_state | at gw ipf -r -f -
	member_up 2
	prove "it comes back" back 2
}

keep_state()
{
	echo "pass in quick on $CLIENT_IF proto tcp from any to any flags S keep state"
	echo "pass out quick on $MEMBER_IF proto tcp from any to any flags S keep state"
}

step_file()
{
	: > "$work/ipf.log"
	configure "$work/ipf.log" debug
	ctl reload
	within 30 no_ipmon
	prove "the system's ipmon writes a file" ipmon_start
	within 30 [ -s "$work/ipmon.pid" ]
	within 30 hears "$work/ipf.log"
	mark
	burst_begin "$HTTP"
	member_down 2
	prove "a refused client is found in it" within 60 said 'www/http/m2 .* up -> down: RST connection refused'
	burst_end
	note "$refused of $all clients were refused; $(grep -c 'log-tag' "$work/ipf.log") records are in the file"
	member_up 2
	prove "the member comes back" back 2
	kill "$(cat "$work/ipmon.pid")" 2>/dev/null
	rm -f "$work/ipmon.pid"
}

# What our own daemon had started has to be gone before another one reads the log: a record goes to one of them only.
no_ipmon()
{
	! at gw pgrep -f "$work/l4ip.ipmon.pid" > /dev/null 2>&1
}

# The script of this tree with the system's rc.subr. Nothing goes to the system's log, and nothing is read from rc.conf.
step_rc()
{
	daemon_end TERM
	configure ipmon emerg
	rc_script "$top/rc.d/l4ip" || note "rc.d/l4ip could not be copied"
	prove "service l4ip start" service l4ip start
	prove "service l4ip status knows it" within 30 rc_status
	prove "service l4ip reload" service l4ip reload
	echo "mistake: yes" >> "$work/l4ip.conf"
	prove "a bad configuration is refused" refuses reload
	prove "and l4ipd goes on" daemon_answers
	configure ipmon emerg
	process=$(cat "$work/l4ip.pid")
	prove "service l4ip restart: another process" another_process
	within 30 agreed
	prove "service l4ip stop" service l4ip stop
	prove "service l4ip status knows that, too" refuses status
	prove "the rules are still there" whole
}

rc_status()
{
	service l4ip status && [ -s "$work/l4ip.pid" ] &&
	    grep -q "l4ip is running as pid $(cat "$work/l4ip.pid")\\." "$work/service"
}

refuses()
{
	! service l4ip "$1"
}

another_process()
{
	service l4ip restart && within 30 rc_status && [ "$(cat "$work/l4ip.pid")" != "$process" ]
}
