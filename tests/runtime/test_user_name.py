"""The names of users, by their numbers, from a file such as passwd(5)."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from l4ipd.runtime.user_name import user_name

FILE = """# $FreeBSD$
root:*:0:0:Charlie &:/root:/bin/sh
toor:*:0:0:Bourne-again Superuser:/root:
short:*
+@admins:*:1003:
alice:*:1001:1001:Alice:/home/alice:/bin/sh
\xff:*:1002:1002::/:
"""


@pytest.mark.parametrize("uid, name", [(0, "root"), (1001, "alice"), (1003, "uid 1003"), (4711, "uid 4711")])
def test_the_first_entry_has_it(tmp_path: Path, uid: int, name: str) -> None:
    (tmp_path / "passwd").write_bytes(FILE.encode("latin-1"))
    assert user_name(uid, str(tmp_path / "passwd")) == name


def test_without_a_file_there_is_the_number(tmp_path: Path) -> None:
    assert user_name(0, str(tmp_path / "none")) == "uid 0"
    assert user_name(0, str(tmp_path)) == "uid 0"


def test_it_is_what_the_system_says_of_us() -> None:
    uid = os.geteuid()
    assert user_name(uid) in (pwd.getpwuid(uid).pw_name, f"uid {uid}")
