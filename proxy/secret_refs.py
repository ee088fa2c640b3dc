"""Secret references: `env:NAME`, `file:/path`, `keyring:service/name`, `command:…`, a service's, or the literal itself.

A reference is parsed once and read each time, so that a secret that was changed on disk is taken up without a restart.
What a reference yields is the secret itself, never another reference.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from proxy import secret_services
from proxy.errors import SecretError
from proxy.secret_services import SecretService

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

KINDS = ("env", "file", "keyring", "command")
SERVICES = secret_services.KINDS
COMMAND_TIMEOUT_SECONDS = 30.0
LIMIT_BYTES = 64 * 1024
"""Nothing longer is a secret: it is a wrong file or a command that prints something else."""

# What a password manager's command needs to find itself, its agent and its terminal. Everything else stays out: the
# environment of this process may hold other identities' secrets (`env:`), which are none of the command's business.
_INHERITED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_[A-Z]+|TZ|TERM|TMPDIR|TMP|TEMP|XDG_[A-Z_]+|DISPLAY|WAYLAND_DISPLAY"
    r"|DBUS_SESSION_BUS_ADDRESS|SSH_AUTH_SOCK|GNUPGHOME|GPG_TTY|PASSWORD_STORE_DIR"
    r"|SYSTEMROOT|SYSTEMDRIVE|WINDIR|COMSPEC|PATHEXT|USERPROFILE|USERNAME|HOMEDRIVE|HOMEPATH|APPDATA|LOCALAPPDATA"
    r"|PROGRAMDATA|PROGRAMFILES"
)


# What belongs to other identities or to ourselves, though no reference of the configuration may name it.
_OURS = re.compile(r"BEARERPROXY_.*|PROVENA_(API|OFFLINE)_TOKEN|RRAP_OFFLINE_TOKEN")


class Secret:
    """A secret or the place where it is kept. Prints as its place; equal to another with the same place or literal."""

    __slots__ = ("_environ", "_kind", "_text", "service")

    def __init__(self, kind: str, text: str, environ: Mapping[str, str] | None = None) -> None:
        self._kind = kind
        self._text = text
        self._environ = os.environ if environ is None else environ  # noqa: TID251 - its home
        self.service: SecretService | None = None
        """The service that keeps the secret, which can also write it; None for all other places."""
        if kind in SERVICES:
            self.service = secret_services.service_of(kind, text, self._environ)

    @classmethod
    def parse(cls, text: str, *, literal: bool = False, environ: Mapping[str, str] | None = None) -> "Secret":
        """Return the secret that `text` names or, with `literal`, is.

        `environ` stands in for the process environment. Raises SecretError for a reference that can never be read.
        """
        kind, colon, rest = text.partition(":")
        if literal or not colon or kind not in KINDS + SERVICES:
            if not text:
                raise SecretError("is empty")
            return cls("literal", text)
        _refuse_unreadable(kind, rest)
        return cls(kind, rest, environ)

    @property
    def is_literal(self) -> bool:
        """True if the secret itself was given instead of a reference to it."""
        return self._kind == "literal"

    @property
    def reference(self) -> str:
        """Where the secret is kept, safe to show: `env:NAME`, `file:/path`, …, or `(literal)`."""
        return "(literal)" if self.is_literal else f"{self._kind}:{self._text}"

    @property
    def variable(self) -> str | None:
        """The environment variable that holds the secret, if one does."""
        return self._text if self._kind == "env" else None

    def reveal(self) -> str:
        """Return the secret, read anew; may take up to 30 s for a `command:` or a service.

        Raises SecretError with one sentence that names the cure.
        """
        if self.service is not None:
            return self.service.read() or _nothing(self.reference)
        match self._kind:
            case "literal":
                return self._text
            case "env":
                found = _from_environment(self._text, self._environ)
            case "file":
                found = _from_file(self._text)
            case "keyring":
                found = _from_keyring(self._text)
            case _:
                found = _from_command(self._text, self._environ)
        return found or _nothing(self.reference)

    def check(self) -> None:
        """Raise SecretError if the secret is not there.

        A `command:` is not run, as it may ask a person, and no service is called, as it may be away for a while.
        """
        if self.service is not None:
            self.service.check()
        elif self._kind != "command":
            self.reveal()

    def __repr__(self) -> str:
        return f"Secret({self.reference})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self._kind, self._text) == (other._kind, other._text)

    def __hash__(self) -> int:
        return hash((self._kind, self._text))


def shown_environment(hidden: Collection[str]) -> dict[str, str]:
    """Return this process's environment for a program that it starts: without our settings and the variables `hidden`.

    For a person's browser, which needs more of its session than a `command:`, whose environment names what it may see.
    """
    environ = os.environ  # noqa: TID251 - its home
    return {name: value for name, value in environ.items() if name not in hidden and not _OURS.fullmatch(name)}


def may_have_keyring() -> bool:
    """Return whether it is worth looking for the operating system's keyring.

    On Linux each of them is asked over the bus of a session, which libraries find by these variables alone. A server
    and a container have none; not to look saves ten megabytes and a sixth of the start.
    """
    environ = os.environ  # noqa: TID251 - its home
    if sys.platform != "linux" or "DBUS_SESSION_BUS_ADDRESS" in environ or "DISPLAY" in environ:
        return True
    return Path(environ.get("XDG_RUNTIME_DIR", "/run"), "bus").exists()


def system_keyring() -> "KeyringBackend | None":
    """Return the operating system's own keyring, or None where there is none.

    Only the backends that come with the keyring package count: keyrings.alt and keyrings.cryptfile keep plain text or
    ask for a password on the terminal, and the chainer prefers them.
    """
    import keyring

    chosen = keyring.get_keyring()
    for backend in getattr(chosen, "backends", [chosen]):
        module = type(backend).__module__
        if module.startswith("keyring.backends.") and not module.endswith((".fail", ".null", ".chainer")):
            return backend  # type: ignore[no-any-return] # the chainer's list is untyped
    return None


def _refuse_unreadable(kind: str, rest: str) -> None:
    if kind == "env" and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", rest):
        raise SecretError("env: wants the name of a variable, such as env:MY_SECRET")
    if kind == "file" and not (rest.startswith("~") or Path(rest).is_absolute()):
        raise SecretError("file: wants an absolute path, such as file:/run/secrets/name or file:~/name")
    if kind == "keyring" and not all(rest.rpartition("/")):
        raise SecretError("keyring: wants service/name, such as keyring:bearerproxy/dotstat")
    if kind == "command":
        try:
            is_empty = not shlex.split(rest)
        except ValueError as error:
            raise SecretError(f"command: cannot be split into arguments: {str(error).lower()}") from error
        if is_empty:
            raise SecretError("command: wants a program and its arguments, such as command:pass show dotstat")


def _from_environment(name: str, environ: Mapping[str, str]) -> str:
    try:
        return environ[name]
    except KeyError:
        raise SecretError(f"the variable {name} is not set; set it, or name another place for the secret") from None


def _from_file(text: str) -> str:
    try:
        with Path(text).expanduser().open("rb") as file:
            content = file.read(LIMIT_BYTES + 1)
    except FileNotFoundError:
        raise SecretError(f"there is no file {text}") from None
    except PermissionError:
        raise SecretError(f"the file {text} may not be read by this user; change its owner or mode") from None
    except (OSError, RuntimeError, ValueError) as error:  # a folder; no home folder; a NUL in the path
        raise SecretError(f"the file {text} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return _decoded(content, f"the file {text}")


def _from_keyring(text: str) -> str:
    service, _, name = text.rpartition("/")
    try:
        backend = system_keyring()
        found = None if backend is None else backend.get_password(service, name)
    except Exception as error:  # noqa: BLE001 - each platform's backend raises its own kind (D-Bus, Win32, Keychain)
        raise SecretError(f"the keyring cannot be read ({type(error).__name__}); unlock it and try again") from None
    if backend is None:
        raise SecretError(f"this machine has no working keyring; keep keyring:{text} elsewhere (env: or file:)")
    if found is None:
        raise SecretError(f"the keyring has no entry {text}; store one with: keyring set {service} {name}")
    return found


def _from_command(text: str, environ: Mapping[str, str]) -> str:
    program = shlex.split(text)[0]
    # No shell on any platform. Windows splits a command line itself, and backslashes are its path separators.
    argv = text if sys.platform == "win32" else shlex.split(text)
    try:
        done = subprocess.run(  # noqa: S603 - the configuration names the command; that is what it is for
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # may quote the secret; run it by hand to see it
            timeout=COMMAND_TIMEOUT_SECONDS,
            env={name: value for name, value in environ.items() if _INHERITED.fullmatch(name.upper())},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SecretError(f"the command {program} did not end within {COMMAND_TIMEOUT_SECONDS:.0f} s") from None
    except (OSError, ValueError) as error:
        raise SecretError(f"the command {program} cannot be run: {getattr(error, 'strerror', None) or error}") from None
    if done.returncode != 0:
        raise SecretError(f"the command {program} failed with exit status {done.returncode}; run it by hand to see why")
    return _decoded(done.stdout, f"the command {program}")


def _decoded(content: bytes, whose: str) -> str:
    """Return the text without its one trailing newline, which editors and `echo` add."""
    if len(content) > LIMIT_BYTES:
        raise SecretError(f"{whose} yields more than {LIMIT_BYTES // 1024} KiB, which is no secret")
    try:
        return content.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise SecretError(f"{whose} does not yield UTF-8 text") from None


def _nothing(reference: str) -> NoReturn:
    raise SecretError(f"{reference} is empty")
