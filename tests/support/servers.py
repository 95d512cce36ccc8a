"""Real servers for tests: whatever of them the system has, on loopback, in a directory of the test, ended with it.

``start`` gives a :class:`Server` that answers, or skips the test with the reason.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support.certs import Authority
from support.gateway import free_port

PATIENCE = 60.0                                     # seconds
PLACES = ("/usr/sbin", "/usr/local/sbin", "/usr/lib/postfix/sbin", "/usr/lib/dovecot", "/usr/libexec")


@dataclass
class Server:
    """``ports`` by what is spoken there; ``log`` is what it has said."""

    directory: Path
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")


def program(*names: str) -> str:
    """The path of the first of them that is here, or the test is skipped."""
    for name in names:
        found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *PLACES)))
        if found is not None:
            return found
        places = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))
        if places:
            return places[-1]
    pytest.skip(f"{names[0]} is not installed")


def root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: it gives up its privileges by itself")


@contextlib.contextmanager
def running(directory: Path, ports: dict[str, int], *command: str, user: str | None = None) -> Iterator[Server]:
    """A server that stays in the foreground, once it listens on all ports over tcp."""
    server = Server(directory, ports)
    with (directory / "log").open("ab") as log, subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory, user=user,
            start_new_session=True) as process:
        try:
            end = time.monotonic() + PATIENCE
            while not all(listens(port) for port in ports.values()):
                if process.poll() is not None or time.monotonic() > end:
                    pytest.skip(f"{command[0]} does not start here: {server.log[-300:]}")
                time.sleep(0.05)
            yield server
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)


def listens(port: int) -> bool:
    """Whether somebody does, as the kernel's table says: to connect would be in the server's log."""
    wanted = f":{port:04X} 00000000:0000 0A"
    try:
        return any(wanted in line for line in Path("/proc/net/tcp").read_text().splitlines())
    except OSError:                                 # another system
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False


def owned(directory: Path, user: str) -> None:
    """Let the user have the directory."""
    try:
        shutil.chown(directory, user)
    except LookupError:
        pytest.skip(f"there is no user {user} here")


# -- one by one

def redis(directory: Path, *options: str) -> contextlib.AbstractContextManager[Server]:
    port = free_port()
    return running(directory, {"redis": port}, program("redis-server", "valkey-server"), "--port", str(port), "--bind",
                   "127.0.0.1", "--save", "", "--dir", str(directory), *options)


def sshd(directory: Path, options: str = "") -> contextlib.AbstractContextManager[Server]:
    root()
    path, port = program("sshd"), free_port()
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    subprocess.run([program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "key")], check=True)
    (directory / "conf").write_text(f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/key\nUsePAM no\n"
                                    f"PidFile none\n{options}\n")
    return running(directory, {"ssh": port}, path, "-D", "-e", "-f", str(directory / "conf"))


def vsftpd(directory: Path, authority: Authority) -> contextlib.AbstractContextManager[Server]:
    root()
    path, port, pem = program("vsftpd"), free_port(), authority.pem("127.0.0.1")
    (directory / "empty").mkdir()
    (directory / "conf").write_text(
        f"listen=YES\nlisten_address=127.0.0.1\nlisten_port={port}\nbackground=NO\nanonymous_enable=YES\n"
        f"secure_chroot_dir={directory}/empty\nssl_enable=YES\nrsa_cert_file={pem}\nrsa_private_key_file={pem}\n"
        f"vsftpd_log_file={directory}/log\nsession_support=NO\nseccomp_sandbox=NO\nanon_root={directory}/empty\n")
    return running(directory, {"ftp": port}, path, str(directory / "conf"))


def unbound(directory: Path, authority: Authority) -> contextlib.AbstractContextManager[Server]:
    path, port, sealed, pem = program("unbound"), free_port(), free_port(), authority.pem("127.0.0.1")
    (directory / "conf").write_text(f"""server:
  interface: 127.0.0.1@{port}
  interface: 127.0.0.1@{sealed}
  tls-port: {sealed}
  tls-service-pem: {pem}
  tls-service-key: {pem}
  do-daemonize: no
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  directory: {directory}
  do-not-query-localhost: no
  root-hints: ""
  module-config: iterator
  local-zone: example.org. static
  local-data: "www.example.org. A 192.0.2.1"
  local-zone: bad.example.org. refuse
remote-control:
  control-enable: no
""")
    return running(directory, {"dns": port, "tls": sealed}, path, "-d", "-c", str(directory / "conf"))


def slapd(directory: Path, authority: Authority, options: str = "") -> contextlib.AbstractContextManager[Server]:
    path, port, sealed, pem = program("slapd"), free_port(), free_port(), authority.pem("127.0.0.1")
    (directory / "db").mkdir()
    (directory / "conf").write_text(
        f"include /etc/ldap/schema/core.schema\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n"
        f"TLSCertificateFile {pem}\nTLSCertificateKeyFile {pem}\nTLSCACertificateFile {authority.path}\n{options}\n"
        f"database mdb\nsuffix dc=example\ndirectory {directory}/db\nrootdn cn=admin,dc=example\nrootpw secret\n")
    return running(directory, {"ldap": port, "tls": sealed}, path, "-d", "0", "-h",
                   f"ldap://127.0.0.1:{port} ldaps://127.0.0.1:{sealed}", "-f", str(directory / "conf"))


def dovecot(directory: Path, authority: Authority) -> contextlib.AbstractContextManager[Server]:
    root()
    path, pem = program("dovecot"), authority.pem("127.0.0.1")
    ports = {name: free_port() for name in ("imap", "imaps", "pop3", "pop3s")}
    (directory / "conf").write_text(f"""base_dir = {directory}/run
state_dir = {directory}/run
log_path = {directory}/log
protocols = imap pop3
ssl = yes
ssl_cert = <{pem}
ssl_key = <{pem}
passdb {{
  driver = static
  args = password=x
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={directory}
}}
service imap-login {{
  inet_listener imap {{
    address = 127.0.0.1
    port = {ports['imap']}
  }}
  inet_listener imaps {{
    address = 127.0.0.1
    port = {ports['imaps']}
    ssl = yes
  }}
}}
service pop3-login {{
  inet_listener pop3 {{
    address = 127.0.0.1
    port = {ports['pop3']}
  }}
  inet_listener pop3s {{
    address = 127.0.0.1
    port = {ports['pop3s']}
    ssl = yes
  }}
}}
""")
    return running(directory, ports, path, "-F", "-c", str(directory / "conf"))


def postfix(directory: Path, authority: Authority) -> contextlib.AbstractContextManager[Server]:
    root()
    path, port, sealed, pem = program("postfix"), free_port(), free_port(), authority.pem("127.0.0.1")
    for name in ("etc", "queue", "data"):
        (directory / name).mkdir()
    owned(directory / "data", "postfix")
    (directory / "etc/main.cf").write_text(
        f"compatibility_level = 3.6\nqueue_directory = {directory}/queue\ndata_directory = {directory}/data\n"
        f"myhostname = mail.example.org\nmynetworks = 127.0.0.0/8\ninet_interfaces = 127.0.0.1\nmydestination =\n"
        f"smtpd_tls_cert_file = {pem}\nsmtpd_tls_key_file = {pem}\nsmtpd_tls_security_level = may\n"
        f"maillog_file = {directory}/log\nmaillog_file_prefixes = /tmp\nalias_maps =\nlocal_recipient_maps =\n"
        "smtpd_relay_restrictions = reject\n")
    (directory / "etc/master.cf").write_text(
        f"127.0.0.1:{port} inet n - n - - smtpd\n"
        f"127.0.0.1:{sealed} inet n - n - - smtpd\n -o smtpd_tls_wrappermode=yes\n"
        "cleanup unix n - n - 0 cleanup\nrewrite unix - - n - - trivial-rewrite\ntlsmgr unix - - n 1000? 1 tlsmgr\n"
        "anvil unix - - n - 1 anvil\nproxymap unix - - n - - proxymap\npostlog unix-dgram n - n - 1 postlogd\n"
        "bounce unix - - n - 0 bounce\nqmgr unix n - n 300 1 qmgr\npickup unix n - n 60 1 pickup\n")
    return running(directory, {"smtp": port, "smtps": sealed}, path, "-c", str(directory / "etc"), "start-fg")


@contextlib.contextmanager
def postgres(directory: Path, authority: Authority, *options: str, hba: str = "trust") -> Iterator[Server]:
    """The user l4ip has the password ``secret``, and is asked for it as ``hba`` says."""
    root()
    path, initdb, port = program("postgres"), program("initdb"), free_port()
    owned(directory, "postgres")
    pem = directory / "server.pem"
    pem.write_bytes(authority.pem("127.0.0.1").read_bytes())
    pem.chmod(0o600)
    shutil.chown(pem, "postgres")
    data = directory / "data"
    subprocess.run([initdb, "-D", str(data), "-A", "trust", "-U", "postgres", "--no-sync", "--no-instructions"],
                   check=True, user="postgres", cwd=directory, stdout=subprocess.DEVNULL, timeout=PATIENCE)
    encryption = "md5" if hba == "md5" else "scram-sha-256"
    single = [path, "--single", "-D", str(data), "-c", f"password_encryption={encryption}", "postgres"]
    subprocess.run(single, input="CREATE ROLE l4ip LOGIN PASSWORD 'secret'\n", text=True, check=True, user="postgres",
                   cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=PATIENCE)
    (data / "pg_hba.conf").write_text(f"host all l4ip 127.0.0.1/32 {hba}\nhost all all 127.0.0.1/32 trust\n")
    with running(directory, {"pgsql": port}, path, "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k",
                 str(directory), "-c", "ssl=on", "-c", f"ssl_cert_file={pem}", "-c", f"ssl_key_file={pem}", "-c",
                 "log_connections=off", "-c", "fsync=off", *options, user="postgres") as server:
        yield server


@contextlib.contextmanager
def mariadb(directory: Path, authority: Authority, *options: str, sql: str = "") -> Iterator[Server]:
    root()
    path, install, port = program("mariadbd", "mysqld"), program("mariadb-install-db"), free_port()
    owned(directory, "mysql")
    pem = directory / "server.pem"
    pem.write_bytes(authority.pem("127.0.0.1").read_bytes())
    shutil.chown(pem, "mysql")
    data, first = directory / "data", directory / "init.sql"
    first.write_text(sql)
    first.chmod(0o644)
    subprocess.run([install, "--no-defaults", f"--datadir={data}", "--user=mysql", "--skip-test-db",
                    "--auth-root-authentication-method=normal"], check=True, cwd=directory, timeout=PATIENCE,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with running(directory, {"mysql": port}, path, "--no-defaults", f"--datadir={data}", f"--port={port}",
                 "--bind-address=127.0.0.1", f"--socket={directory}/socket", "--user=mysql", f"--ssl-cert={pem}",
                 f"--ssl-key={pem}", f"--init-file={first}", "--log-warnings=2", "--innodb-buffer-pool-size=8M",
                 *options) as server:
        yield server


def until(server: Server, said: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not said():
        assert time.monotonic() < end, f"never happened; {server.log[-2000:]}"
        time.sleep(0.05)
