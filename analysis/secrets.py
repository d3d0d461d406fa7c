"""Hiding passwords, tokens and keys in text that is shown, logged or kept."""

import html
import json
import os
import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, unquote

from analysis.locations import OPTUNA_VARIABLE, TRACKING_VARIABLE

HIDDEN = "***"

# The end of a setting's, a query parameter's or an environment variable's name whose value is a secret.
_SECRET_NAME = (
    r"(?:[a-z0-9.%_-]*(?:password|passwd|passphrase|secret|token|signature)"
    r"|(?:[a-z0-9.%_-]*[_.-])?(?:pass|pwd|credentials?|(?:api|access|secret|private|auth|account)[_-]?key(?:[_-]?id)?))"
)
_SECRET_VARIABLE = re.compile(_SECRET_NAME, re.IGNORECASE)
# Variables with such a name that hold a path.
_PATHS = {"PWD", "OLDPWD", "GOOGLE_APPLICATION_CREDENTIALS"}
# `user:password@` after two slashes. A password may hold slashes (SQLAlchemy) or an @ (requests): all up to the last @
# of the host's part is hidden. Paths, which may have colons, begin with three slashes.
_USER = r"(?<!/)(//)([^\s:/@'\"]{0,512}:)[^\s@]{0,1024}@(?:[^\s@/?#]{0,1024}@){0,9}"
_QUOTED_USER = r"(%2F%2F)((?:(?!%2F|%40|%3A)\S){0,512}%3A)(?:(?!%40)\S){0,1024}%40"
# `password=...`, `?token=...&`, `password='...'` of a DSN, `"password": "..."` of JSON.
_VALUE = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|[^\s&]+"
_ASSIGNED = rf"((?<![a-z0-9.%_-]){_SECRET_NAME}\\?['\"]?\s*(?:=|:(?=\s*\\?['\"]))\s*)(?:{_VALUE})"
_HEADER = r"(authorization\\?['\"]?\s*[:=]\s*\\?['\"]?(?:basic|bearer|token)\s+)[^\s'\"]+"
# What a text must have for the pattern to be worth the search, the pattern, and what is shown.
_PATTERNS = (
    ("@", re.compile(_USER), rf"\1\2{HIDDEN}@"),
    ("%40", re.compile(_QUOTED_USER, re.IGNORECASE), rf"\1\2{HIDDEN}%40"),
    ("", re.compile(_ASSIGNED, re.IGNORECASE), rf"\1{HIDDEN}"),
    ("", re.compile(_HEADER, re.IGNORECASE), rf"\1{HIDDEN}"),
)
_PASSWORD_OF_URL = re.compile(r"^[\w+.-]+://[^\s:/@]*:(.*)@", re.DOTALL)
# The variables that hold the login of a URL with this scheme, and the whole URL of an option.
_VARIABLES = {
    "http": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    "https": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    "postgresql": "PGPASSWORD (or a line in ~/.pgpass)",
    "postgres": "PGPASSWORD (or a line in ~/.pgpass)",
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
}
_URL_VARIABLES = {"--tracking-uri": TRACKING_VARIABLE, "--optuna-storage": OPTUNA_VARIABLE}
# A shorter value, or one of these words, says nothing, and would be hidden all over a text.
_SHORTEST = 4
_NO_SECRETS = {"true", "false", "none", "null", "default"}


def without_secrets(text: str) -> str:
    """The text with every password, token and key replaced by `***`.

    Hidden are passwords in URLs, values of `password=`, `token=`, `api_key=`, … and, wherever they appear, the values
    of environment variables with such names (PGPASSWORD, MLFLOW_TRACKING_TOKEN, …) and the passwords of URLs in
    environment variables. Rather too much is hidden than too little.
    """
    # Known values first: a password with a space would break the patterns.
    for secret in sorted(set(_known()), key=len, reverse=True):
        if secret in text:
            text = re.sub(rf"(?<![^\W_]){re.escape(secret)}(?![^\W_])", HIDDEN, text)
    return hide_in_form(text)


def hide_in_form(text: str) -> str:
    """The text without the secrets that its form shows, whatever the environment."""
    for mark, pattern, shown in _PATTERNS:
        if mark in text:
            text = pattern.sub(shown, text)
    return text


def has_secret(url: str) -> bool:
    """Whether a URL has a password, a token or a key."""
    return hide_in_form(url) != url


def password_advice(option: str, url: str) -> str | None:
    """Why a URL with a password cannot be an option's value, and what to set instead; None if it has none.

    Every user of a machine can read the command lines of its processes, and a shell keeps them in its history.
    """
    if not has_secret(url):
        return None
    instead = _VARIABLES.get(url.partition("+")[0].partition("://")[0], _URL_VARIABLES.get(option, "the environment"))
    whole = f", or the whole URL in {_URL_VARIABLES[option]}" if option in _URL_VARIABLES else ""
    return (
        f"{option} {hide_in_form(url)}: a password on the command line can be read by every user of this machine, and "
        f"stays in the shell's history. Give the URL without it, and set {instead} in the environment{whole}."
    )


def without_user(url: str) -> str:
    """A URL without user and password, and without other secrets."""
    return hide_in_form(re.sub(r"(?<=://)[^/\s]*@", "", url))


def _known() -> Iterator[str]:
    """The secrets in the environment, in every form in which a message may quote them."""
    for name, value in os.environ.items():
        if name not in _PATHS and _SECRET_VARIABLE.fullmatch(name):
            yield from _forms(value)
        elif (found := _PASSWORD_OF_URL.match(value)) is not None:
            yield from _forms(found[1])
            yield from _forms(unquote(found[1]))


def _forms(secret: str) -> Iterator[str]:
    if len(secret) < _SHORTEST or secret.lower() in _NO_SECRETS:
        return
    yield from (secret, quote(secret, safe=""), quote(secret), quote_plus(secret), html.escape(secret))
    yield from (repr(secret)[1:-1], json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
