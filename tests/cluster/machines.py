"""Machines with sshd on this one: Linux namespaces with addresses, processes, a home and a /tmp/ray of their own.

Nothing that happens in them reaches the outside: `ray stop` ends the Ray processes of one machine, a server on a
machine's loopback answers that machine alone. All of them end with the block. Needs root.
"""

import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NETWORK = "10.99.0"
SSHD_CONFIG = """
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
AcceptEnv *
"""
# What the first process of a machine does, in namespaces of its own: folders at the places where programs look for
# them, users whose home is here, no trace of the system's own services; then it serves ssh.
BOOT = """
set -e
hostname {name}
mount --make-rprivate /
mount --bind {folder}/{name} {folder}/home
mkdir -p /tmp/ray && mount --bind {folder}/{name}-ray /tmp/ray
mount --bind {folder}/passwd /etc/passwd
mount -t tmpfs tmpfs /run && mkdir /run/sshd
ip link set lo up
echo up > {folder}/{name}-up
exec /usr/sbin/sshd -D -e -f {folder}/sshd_config 2> {folder}/{name}-sshd.log
"""


@dataclass(frozen=True)
class Machine:
    """A machine; `process` is its first one, seen from outside."""

    name: str
    address: str
    process: int
    home: Path  # as the machine itself and all others name theirs
    folder: Path  # its home, seen from outside

    def run(self, *command: str, at: Path, seconds: float, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in that folder of the machine, with output and errors together."""
        enter = ["nsenter", f"--target={self.process}", "--mount", "--uts", "--net", "--pid", f"--wdns={at}"]
        return subprocess.run(
            [*enter, *command],
            env={"HOME": str(self.home), "USER": "root", "PATH": os.environ["PATH"], "TERM": "dumb"} | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )


@contextlib.contextmanager
def machines(folder: Path, *names: str) -> Iterator[list[Machine]]:
    """Machines in one network, that know each other's keys; the folder is theirs and is seen by all."""
    (folder / "home").mkdir()
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    (folder / "sshd_config").write_text(SSHD_CONFIG.format(folder=folder))
    users = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
    homes = [[*user[:5], str(folder / "home"), *user[6:]] if user[0] == "root" else user for user in users]
    (folder / "passwd").write_text("".join(":".join(user) + "\n" for user in homes))
    with contextlib.ExitStack() as stack:
        # Between the machines: a network with nothing else in it.
        switch = _first_process(stack, "exec sleep infinity", "--net")
        _in_network(switch, "link add switch type bridge")
        _in_network(switch, "link set switch up")
        yield [_boot(stack, folder, name, number, switch) for number, name in enumerate(names, start=1)]


def _boot(stack: contextlib.ExitStack, folder: Path, name: str, number: int, switch: int) -> Machine:
    for part in (name, f"{name}-ray"):
        (folder / part).mkdir()
    # ssh names its control sockets in /tmp by host name, among other things.
    name_of_host = f"{name}-{secrets.token_hex(4)}"
    script = BOOT.format(folder=folder, name=name).replace(f"hostname {name}\n", f"hostname {name_of_host}\n")
    process = _first_process(stack, script, "--net", "--pid", "--mount", "--uts", "--mount-proc")
    _wait_for(folder / f"{name}-up")
    address = f"{NETWORK}.{number}"
    _in_network(switch, f"link add port{number} type veth peer name eth0 netns {process}")
    _in_network(switch, f"link set port{number} master switch up")
    _in_network(process, f"addr add {address}/24 dev eth0")
    _in_network(process, "link set eth0 up")
    # Nobody is there, but Ray finds a machine's own address by looking at the way out.
    _in_network(process, f"route add default via {NETWORK}.254")
    return Machine(name, address, process, folder / "home", folder / name)


def _first_process(stack: contextlib.ExitStack, script: str, *namespaces: str) -> int:
    """The first process in new namespaces; all processes in there end with the stack."""
    parent = subprocess.Popen(["unshare", *namespaces, "--fork", "--kill-child", "bash", "-c", script])
    stack.callback(parent.wait)
    stack.callback(parent.kill)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    while not (pids := children.read_text().split()):
        time.sleep(0.01)
    return int(pids[0])


def _in_network(process: int, command: str) -> None:
    subprocess.run(["nsenter", f"--target={process}", "--net", "ip", *command.split()], check=True)


def _wait_for(file: Path) -> None:
    end = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < end, f"{file} does not appear"
        time.sleep(0.05)
