"""Which Ray cluster a study joins, whether it answers, and whether it lets this driver in."""

import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray._private.authentication.authentication_token_generator import generate_new_authentication_token
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError

from study.errors import StudyError, first_line

AUTHENTICATION = "RAY_AUTH_MODE"
# Seconds to wait for a connection, and for an answer: Ray itself waits 40 seconds, and some errors come after minutes.
SECONDS_TO_CONNECT, SECONDS_TO_ANSWER = 5.0, 8.0


def find_cluster(address: str | None) -> str | None:
    """HOST:PORT of the cluster to join, after it has answered; None: there is none, and Ray is to be started here.

    It is looked for as Ray does: RAY_ADDRESS comes first, then the address, then a cluster that was started on this
    machine with `ray start`. Also sets how this process authenticates itself, which the cluster decides.

    Raises:
        StudyError: the address is malformed, nothing answers there, or the cluster wants another token.
    """
    named = os.environ.get("RAY_ADDRESS") or address
    source = "RAY_ADDRESS" if os.environ.get("RAY_ADDRESS") else "--address"
    if named is not None and "://" in named:
        raise StudyError(
            f"{source} {named}: a study cannot be driven through a Ray client server. Name the cluster itself, as "
            f"HOST:PORT (usually port 6379), on one of its machines; or use 'ray submit'."
        )
    try:
        found = canonicalize_bootstrap_address(named)  # type: ignore[arg-type]
    except ConnectionError as error:
        raise StudyError(
            f"{source} auto: no Ray cluster runs on this machine. Start one with 'ray start --head', or leave "
            f"{source} out: then Ray is started for this study."
        ) from error
    except ValueError as error:
        raise _malformed(source, named) from error
    if found is None:
        return None
    # The address is always named, also where Ray has found it in its own file.
    label = f"the Ray cluster at {found}" + (f" ({source} {named})" if named not in (None, found) else "")
    _check_port(found, label, source, named)
    _log_in(found, label)
    return found


def protect_token() -> None:
    """Make sure that Ray's token exists, and that nobody else can read it: Ray writes it for all to read.

    Raises:
        StudyError: the token cannot be written.
    """
    _repair_mode(_token_file())
    AuthenticationTokenLoader.instance().reset_cache()
    if AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        return
    try:
        _token_file().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(_token_file(), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(generate_new_authentication_token())
    except FileExistsError:
        # Another study has just written it; or it is empty, and Ray fills it.
        pass
    except OSError as error:
        raise StudyError(
            f"Ray's token cannot be written to {_token_file()}: {error.strerror}. Set RAY_AUTH_TOKEN to a secret of "
            "your own."
        ) from error
    AuthenticationTokenLoader.instance().reset_cache()


def restore_authentication(mode: str | None) -> None:
    """Set the variable to what it was before a cluster decided it."""
    if mode is None:
        os.environ.pop(AUTHENTICATION, None)
    else:
        os.environ[AUTHENTICATION] = mode


def answers(address: str, seconds: float = SECONDS_TO_CONNECT) -> bool:
    """Whether something accepts connections at HOST:PORT."""
    try:
        _connect(address, seconds)
    except OSError:
        return False
    return True


def _token_file() -> Path:
    """The file that Ray writes the token to if it has none."""
    return Path.home() / ".ray" / "auth_token"


def _repair_mode(file: Path) -> None:
    try:
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            file.chmod(0o600)
    except OSError:
        # The token is somewhere else (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH), or the file is another user's.
        return


def _check_port(address: str, label: str, source: str, named: str | None) -> None:
    """Check that something listens at the address."""
    try:
        _connect(address, SECONDS_TO_CONNECT)
    except (ValueError, OverflowError) as error:
        raise _malformed(source, named) from error
    except OSError as error:
        reason = error.strerror or str(error) or "no answer"
        raise StudyError(
            f"{label} does not answer: {reason}. {_what_to_check(source, named)}, or start it with 'ray start --head'."
        ) from error


def _connect(address: str, seconds: float) -> None:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=seconds):
        pass


def _what_to_check(source: str, named: str | None) -> str:
    if named is None:
        return "Ray has noted it as this machine's cluster (/tmp/ray/ray_current_cluster): run 'ray stop' to forget it"
    return f"Check {source}"


def _malformed(source: str, named: str | None) -> StudyError:
    return StudyError(f"{source} {named!r}: is no address of a Ray cluster. Write HOST:PORT, such as 10.0.0.1:6379.")


def _log_in(address: str, label: str) -> None:
    """Find out whether the cluster wants a token, and set this process to that.

    Ray takes its own default for both sides, and a driver with the other one fails without a reason.
    """
    _repair_mode(_token_file())
    for mode in ("disabled", "token"):
        _set_authentication(mode)
        if mode == "token" and not AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
            raise StudyError(
                f"{label} wants a token, and there is none here. Copy it from the cluster's head, where "
                f"'ray get-auth-token' prints it: into {_token_file()}, or set RAY_AUTH_TOKEN to it."
            )
        try:
            _within(SECONDS_TO_ANSWER, lambda: _ask(address))
        except AuthenticationError:
            continue
        except Exception as error:
            raise StudyError(
                f"{label} does not answer as a Ray cluster does: {first_line(error)}. Check the port (usually 6379), "
                "and 'ray status' on the cluster."
            ) from error
        return
    raise StudyError(
        f"{label} refuses this machine's token ({_token_source()}). On the cluster's head 'ray get-auth-token' prints "
        "the right one: set RAY_AUTH_TOKEN to it."
    )


def _set_authentication(mode: str) -> None:
    """Set how this process, and what it starts, talks to Ray; Ray has read the variable when it was imported."""
    os.environ[AUTHENTICATION] = mode
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _ask(address: str) -> None:
    """Read something that every cluster has."""
    GcsClient(address=address).internal_kv_get(b"session_name", b"session", timeout=SECONDS_TO_CONNECT)


def _token_source() -> str:
    """Where this machine's token comes from, in Ray's order."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "from RAY_AUTH_TOKEN"
    return f"in {os.environ.get('RAY_AUTH_TOKEN_PATH') or _token_file()}"


def _within(seconds: float, call: Callable[[], Any]) -> None:
    """Call something that Ray's C++ code may block in for longer than this.

    Raises:
        TimeoutError: it took longer.
    """
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:.0f} seconds")
    if errors:
        raise errors[0]
