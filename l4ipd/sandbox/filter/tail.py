"""The end of a filter rule: with, keep, head, group, tags, and the rest of them, in their order."""

from __future__ import annotations

from l4ipd.sandbox.filter.rule import WITH, FilterRule
from l4ipd.sandbox.syntax.lexer import NUMBER, STR, Tokens


def tail(tokens: Tokens, rule: FilterRule) -> None:
    """Read all that may stand behind the packet's description."""
    if tokens.accept("with", "and"):
        _with(tokens, rule)
    while tokens.accept("keep"):
        _keep(tokens, rule)
    for word in ("head", "group"):
        if tokens.accept(word):
            setattr(rule, word, tokens.expect(STR, NUMBER).text)
    if tokens.accept("set-tag"):
        _tags(tokens, rule)
    if tokens.accept("match-tag"):
        tokens.expect("(")
        kind = tokens.expect("log", "nat").kind
        tokens.expect("=")
        rule.match_tag = f"{kind}={tokens.expect(STR, NUMBER).text}"
        tokens.expect(")")
    if tokens.accept("pps"):
        rule.pps = tokens.expect(NUMBER).number
    if tokens.accept("age"):
        rule.age = _age(tokens)
    if tokens.accept("rule-ttl"):
        rule.die = tokens.expect(NUMBER).number
    if tokens.accept("comment"):
        rule.comment = tokens.expect(STR).text


def _with(tokens: Tokens, rule: FilterRule) -> None:
    rule.everything = False
    while True:
        wanted = tokens.accept("not", "no") is None
        if tokens.accept("opt"):
            rule.option_words += (("" if wanted else "not ") + f"opt {tokens.expect(STR).text}",)
        else:
            name = tokens.expect(*WITH, "frags").kind
            rule.options |= {("frag" if name == "frags" else name, wanted)}
        if not tokens.accept(",") and tokens.kind not in (*WITH, "not", "no", "opt", "frags"):
            return


def _keep(tokens: Tokens, rule: FilterRule) -> None:
    kind = tokens.expect("state", "frags", "frag").kind
    given: list[str] = []
    if tokens.accept("("):
        while not tokens.accept(")"):
            option = tokens.expect("limit", "strict", "loose", "newisn", "no-icmp-err", "sync", "age", "nolog",
                                   "max-srcs", "max-per-src", "icmp-head", "rpc")
            given.append(_state_option(tokens, option.kind))
            tokens.accept(",")
    if kind == "state":
        rule.keep_state, rule.state_options = True, tuple(given)
    else:
        rule.keep_frags, rule.strict_frags = True, "strict" in given


def _state_option(tokens: Tokens, word: str) -> str:
    if word in ("limit", "max-srcs"):
        return f"{word} {tokens.expect(NUMBER).number}"
    if word in ("age", "max-per-src"):
        first, second = _age(tokens)
        return f"{word} {first}/{second}"
    if word == "icmp-head":
        return f"{word} {tokens.expect(STR, NUMBER).text}"
    return word


def _age(tokens: Tokens) -> tuple[int, int]:
    first = tokens.expect(NUMBER).number
    return first, tokens.expect(NUMBER).number if tokens.accept("/") else first


def _tags(tokens: Tokens, rule: FilterRule) -> None:
    tokens.expect("(")
    while True:
        kind = tokens.expect("log", *(("nat",) if rule.direction == "out" else ())).kind
        tokens.expect("=")
        if kind == "log":
            rule.log_tag = tokens.expect(NUMBER).number
        else:
            rule.nat_tag = tokens.expect(STR, NUMBER).text
        if not tokens.accept(","):
            break
    tokens.expect(")")
