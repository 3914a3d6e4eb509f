"""The inside of the sandbox (core/sandbox.py): a script that isolates itself, then becomes the program it was given.

Standard library only: it runs as `python -I -S jail.py STATUS_FD`, with the request as JSON on its standard input. What
goes wrong before the program starts is written to STATUS_FD; the program itself never holds that descriptor.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

# Numbers of Linux's headers, the same on every architecture.
_NEW_FILES, _NEW_NAMES, _NEW_IPC, _NEW_USER, _NEW_PIDS, _NEW_NETWORK = (
    1 << 17,
    1 << 26,
    1 << 27,
    1 << 28,
    1 << 29,
    1 << 30,
)
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_EXEC, _NO_ATIME, _NO_DIR_ATIME = 1, 2, 4, 8, 1 << 10, 1 << 11
_REMOUNT, _BIND, _RECURSIVE, _PRIVATE, _DETACH = 1 << 5, 1 << 12, 1 << 14, 1 << 18, 2
_SET_PDEATHSIG, _SET_DUMPABLE, _SET_NO_NEW_PRIVS = 1, 4, 38

_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_FIRST_UID = 1 << 30
"""A user id of its own for each run as root, so that the limit on processes counts this run's alone."""

_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001  # SCMP_ACT_ALLOW, SCMP_ACT_ERRNO(EPERM)
_ABSENT = 0x00050026  # SCMP_ACT_ERRNO(ENOSYS): glibc then takes the older call, whose flags can be seen
_REFUSED = """
acct add_key bpf chroot delete_module finit_module fsconfig fsmount fsopen fspick init_module io_uring_enter
io_uring_register io_uring_setup kcmp kexec_file_load kexec_load keyctl memfd_secret mount mount_setattr move_mount
name_to_handle_at open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_vm_readv
process_vm_writev ptrace quotactl reboot request_key setns socket swapoff swapon syslog umount2 unshare userfaultfd
"""

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> None:
    """A C function that returns 0; raises OSError that names it."""
    if getattr(_libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _mount(source: str, target: str, kind: str = "none", flags: int = 0, options: str = "") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())


def _read_only(target: str) -> None:
    # A user namespace may not drop the flags that the mount had outside: they are asked for again.
    had = os.statvfs(target).f_flag & (_NO_DEVICES | _NO_EXEC | _NO_ATIME | _NO_DIR_ATIME)
    _mount("none", target, flags=_REMOUNT | _BIND | _READ_ONLY | _NO_SUID | had)


def _own_root(root: str, prefix: str, file_bytes: int) -> None:
    """Leave nothing of the file system but Python and its libraries, read-only, and an empty /tmp."""
    _mount("none", "/", flags=_RECURSIVE | _PRIVATE)
    _mount("tmpfs", root, "tmpfs", _NO_SUID | _NO_DEVICES, "size=1m,mode=755")
    for source in (prefix, *_LIBRARIES):
        target = root + source
        if not os.path.exists(source) or source.startswith(f"{prefix}/"):
            continue
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(source):
            os.symlink(os.readlink(source), target)
            continue
        os.makedirs(target, exist_ok=True)
        _mount(source, target, flags=_BIND | _RECURSIVE)
        _read_only(target)
    os.makedirs(f"{root}/dev")
    for device in _DEVICES:
        os.close(os.open(root + device, os.O_CREAT | os.O_WRONLY))
        _mount(device, root + device, flags=_BIND)
    os.mkdir(f"{root}/tmp")
    options = f"size={file_bytes},nr_inodes=1024,mode=1777"
    _mount("tmpfs", f"{root}/tmp", "tmpfs", _NO_SUID | _NO_DEVICES | _NO_EXEC, options)
    _mount("none", root, flags=_REMOUNT | _BIND | _READ_ONLY | _NO_SUID | _NO_DEVICES)
    os.chdir(root)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _DETACH)
    os.chdir("/tmp")


def _limit(limits: dict[str, Any]) -> None:
    for kind, soft, hard in (
        (resource.RLIMIT_AS, limits["memory_bytes"], limits["memory_bytes"]),
        (resource.RLIMIT_CPU, limits["cpu_seconds"], limits["cpu_seconds"] + 1),
        (resource.RLIMIT_FSIZE, limits["file_bytes"], limits["file_bytes"]),
        (resource.RLIMIT_NPROC, limits["processes"] + 2, limits["processes"] + 2),  # this script and its init count
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
    ):
        resource.setrlimit(kind, (soft, hard))


def _filter(seccomp: ctypes.CDLL) -> None:
    """Refuse system calls that no checked program needs and that reach far into the kernel."""
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(_ALLOW))
    try:
        for name, action in [*((name, _REFUSE) for name in _REFUSED.split()), ("clone3", _ABSENT)]:
            number = seccomp.seccomp_syscall_resolve_name(name.encode())
            if number >= 0:  # else this machine or this library has no such call
                seccomp.seccomp_rule_add(context, action, number, 0)
        if (code := seccomp.seccomp_load(context)) != 0:
            raise OSError(-code, f"seccomp_load: {os.strerror(-code)}")
    finally:
        seccomp.seccomp_release(context)


def _die_with_parent() -> None:
    _call("prctl", _SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _init(request: dict[str, Any], root_user: bool, seccomp: ctypes.CDLL | None) -> int:
    """Process 1 of the new process namespace: when it ends, the kernel kills all that the program started."""
    limits = request["limits"]
    source = os.memfd_create("input")
    os.write(source, request["input"].encode())
    os.lseek(source, 0, os.SEEK_SET)
    _own_root(request["root"], request["prefix"], limits["file_bytes"])
    if root_user:
        uid = _FIRST_UID + request["number"]
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _die_with_parent()  # changing the user has cleared it
    _call("prctl", _SET_DUMPABLE, 0, 0, 0, 0)
    with open("/tmp/program.py", "w", encoding="utf-8") as file:
        file.write(request["program"])
    program = os.fork()
    if program == 0:
        os.dup2(source, 0)
        _limit(limits)
        _call("prctl", _SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if seccomp is not None:
            _filter(seccomp)
        environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, "-I", "-S", "-B", "program.py"], environment)
    for descriptor in (0, 1, 2):  # the outside waits for the end of the program's output
        os.close(descriptor)
    # Should the process outside die in the moment before it was tied to this one, nobody else would end it.
    signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
    signal.setitimer(signal.ITIMER_REAL, limits["seconds"] + 5)
    os.closerange(3, 64)
    while True:
        ended, status = os.wait()
        if ended == program:
            return os.waitstatus_to_exitcode(status) & 0xFF


def _library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None


def main(status: int) -> int:
    """Isolate, run, return the program's exit code; 256 - s when signal s ended it."""
    _die_with_parent()
    request = json.loads(sys.stdin.buffer.read())
    os.set_inheritable(status, False)
    try:
        uid, gid = os.getuid(), os.getgid()
        seccomp = _library()
        flags = _NEW_FILES | _NEW_NAMES | _NEW_IPC | _NEW_PIDS | _NEW_NETWORK | (0 if uid == 0 else _NEW_USER)
        _call("unshare", flags)
        if uid != 0:
            for name, content in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
                with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                    file.write(content)
        child = os.fork()
        if child == 0:
            os._exit(_init(request, uid == 0, seccomp))
    except OSError as error:
        os.write(status, str(error).encode())
        os._exit(1)
    for descriptor in (0, 1, 2, status):
        os.close(descriptor)
    _, ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended) & 0xFF


if __name__ == "__main__":
    os._exit(main(int(sys.argv[1])))
