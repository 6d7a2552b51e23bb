"""Every path's ground: the last steps before a server's program replaces this process.

Run as a script with nothing but the standard library (`python -I -S launcher.py …`), because between
fork and exec of a process with threads no Python is safe. It gives root up, asks the kernel for a
signal when the owner dies, and execs.

Invariant: what is exec'd is never root in the eyes of its own program, and never outlives an owner
that died before the kernel was asked.

Usage: launcher.py WAY UID GID OWNER_PID DEATH_SIGNAL PROGRAM ARGUMENT…
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG, PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 28, 38, 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_READ_SEARCH = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CLONE_NEWUSER = 0x10000000
CAPABILITY_VERSION_3 = 0x20080522


def main(arguments: list[str]) -> None:
    """Become the server; see the module's usage line. Raises OSError when a step is refused."""
    way = arguments[0]
    uid, gid, owner_pid, death_signal = map(int, arguments[1:5])
    os.umask(0o077)
    {"capability": _keep_reading, "plain": _drop, "namespace": _be_seen_as}.get(way, _stay)(
        uid, gid
    )
    if sys.platform == "linux":
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
        # After the last change of ids: the kernel forgets this signal at each.
        _prctl(PR_SET_PDEATHSIG, death_signal)
    # Checked after the kernel was asked, and also where it was not: a next owner that looks for
    # leftovers cannot know a child that is not yet this program.
    if os.getppid() != owner_pid:
        sys.exit("The owner died before the server started.")
    os.execv(arguments[5], arguments[5:])  # noqa: S606 - starting a program is what a launcher does


def _stay(_uid: int, _gid: int) -> None:
    """We are an ordinary user already."""


def _drop(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _keep_reading(uid: int, gid: int) -> None:
    """Drop root, all but the right to read and search everywhere, also through exec.

    The server's own library and data folders may lie below a folder of mode 0700, and no such
    folder's mode is ours to change.
    """
    # Rights stay through the change of ids; and access(2), by which initdb looks for its programs,
    # counts them although the user is not root.
    _prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    _drop(uid, gid)
    only = 1 << CAP_DAC_READ_SEARCH
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(only, only, only, 0, 0, 0)  # effective, permitted, inheritable
    _check(_libc().capset(header, sets), "capset")
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH)


def _be_seen_as(uid: int, gid: int) -> None:
    """Enter a user namespace in which our own id is called `uid`.

    Files stay ours, the program sees an ordinary user, and the rights of root are gone with exec.
    """
    own_uid, own_gid = os.geteuid(), os.getegid()
    _check(_libc().unshare(CLONE_NEWUSER), "unshare")
    for name, line in (
        ("setgroups", b"deny"),
        ("uid_map", b"%d %d 1" % (uid, own_uid)),
        ("gid_map", b"%d %d 1" % (gid, own_gid)),
    ):
        # Bytes: from here on Python's own library may be out of reach, its codecs among it.
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(fd, line)
        os.close(fd)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, *values: int) -> None:
    padded = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    _check(_libc().prctl(option, *padded), f"prctl {option}")


def _check(answer: int, call: str) -> None:
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


if __name__ == "__main__":
    main(sys.argv[1:])
