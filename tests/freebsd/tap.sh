# What a test says: TAP, https://testanything.org. Sourced by run.
# shellcheck shell=sh disable=SC2034

# A trap may find standard output led elsewhere: what is said goes to a descriptor of its own.
exec 3>&1
tests=0 failures=0

plan()
{
	planned=$1
	echo "1..$1" >&3
}

# note [TEXT]: for people. Without a text: what comes on standard input.
note()
{
	if [ $# -gt 0 ]; then
		echo "# $*" >&3
	else
		sed 's/^/# /' >&3
	fi
}

ok()
{
	tests=$((tests + 1))
	echo "ok $tests - $1" >&3
}

not_ok()
{
	tests=$((tests + 1)) failures=$((failures + 1))
	echo "not ok $tests - $1" >&3
}

# skip REASON TEXT...: tests that cannot be here
skip()
{
	reason=$1
	shift
	for text; do
		tests=$((tests + 1))
		echo "ok $tests - $text # SKIP $reason" >&3
	done
}

# prove TEXT COMMAND...: a test. When many have failed, the rest would only take time.
prove()
{
	text=$1
	shift
	if "$@"; then
		ok "$text"
	else
		not_ok "$text"
		explain
		[ "$failures" -lt 6 ] || bail_out "$failures tests have failed"
	fi
}

bail_out()
{
	echo "Bail out! $*" >&3
	exit 1
}
