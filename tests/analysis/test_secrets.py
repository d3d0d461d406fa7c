"""Passwords, tokens and keys never appear in text that is shown, whatever the text."""

import json
import string
import subprocess
import sys
from urllib.parse import quote, quote_plus

import psycopg2
import pytest
import requests
import sqlalchemy
from hypothesis import assume, given
from hypothesis import strategies as st

from analysis.secrets import has_secret, without_secrets, without_user

# What a password may hold unquoted in every form below; quoted, it may hold anything.
PLAIN = st.text(string.ascii_letters + string.digits + "!$*+,-.:;=_~()/?#@", min_size=5, max_size=30)
ANY = st.text(min_size=4, max_size=30)

URLS = [
    "http://user:{}@host:5000/path?x=1",
    "https://:{}@host",
    "//user:{}@host/x",
    "postgresql+psycopg2://user:{}@host/db",
    "s3://KEY:{}@bucket/prefix",
    "first http://a@b/c then http://user:{}@host, and https://user:{}@other/path",
    "API request to http://user:{}@host/api/2.0 failed with exception HTTPConnectionPool(host='host')",
]
SETTINGS = [
    "http://host/path?password={}&x=1",
    "http://host/path?x=1&token={}",
    "?api_key={}&secret={}",
    "postgresql://host/db?user=x&password={}",
    "host=localhost password={} dbname=x",
    "AWS_SECRET_ACCESS_KEY={} python",
    "MLFLOW_TRACKING_PASSWORD={}",
    "s3://bucket/x?secret_key={}&scheme=http",
    "X-Amz-Security-Token={}&X-Amz-Signature={}",
]


def shown(template: str, secret: str) -> str:
    return without_secrets(template.replace("{}", secret))


def assume_not_in_the_rest(secret: str, template: str) -> None:
    assume(secret not in template.replace("{}", "***") and "*" not in secret)


@pytest.mark.parametrize("template", URLS)
@given(password=PLAIN)
def test_a_password_of_a_url_never_appears(template: str, password: str) -> None:
    # Before a slash, clients take the host to end: only SQLAlchemy reads such a password, which has no @ then.
    assume("@" not in password or not set("/?#") & set(password))
    assume_not_in_the_rest(password, template)
    assert password not in shown(template, password)


@pytest.mark.parametrize("template", URLS + SETTINGS)
@pytest.mark.parametrize("quoted", [lambda text: quote(text, safe=""), quote_plus])
@given(password=ANY)
def test_a_percent_encoded_password_never_appears(template: str, quoted: object, password: str) -> None:
    assert callable(quoted)
    encoded = quoted(password)
    assume_not_in_the_rest(encoded, template)
    assert encoded not in shown(template, encoded)


@given(password=PLAIN)
def test_a_password_of_a_quoted_url_never_appears(password: str) -> None:
    url = quote(f"http://user:{quote(password, safe='')}@host/x", safe="")
    assume_not_in_the_rest(quote(quote(password, safe=""), safe=""), "http%3A%2F%2Fuser%3A{}%40host%2Fx")
    assert quote(quote(password, safe=""), safe="") not in without_secrets(f"next={url}")


@given(password=ANY)
def test_a_password_of_a_dsn_or_of_json_never_appears(password: str) -> None:
    escaped = password.replace("\\", "\\\\").replace("'", "\\'")
    assume("*" not in password and escaped not in "host=h password='***' dbname=d")
    assert escaped not in without_secrets(f"host=h password='{escaped}' dbname=d")
    text = json.dumps({"user": "u", "password": password, "host": "h"})
    assume(json.dumps(password)[1:-1] not in json.dumps({"user": "u", "password": "***", "host": "h"}))
    assert json.dumps(password)[1:-1] not in without_secrets(text)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MLFLOW_TRACKING_PASSWORD", "{}"),
        ("MLFLOW_TRACKING_TOKEN", "{}"),
        ("PGPASSWORD", "{}"),
        ("AWS_SECRET_ACCESS_KEY", "{}"),
        ("AWS_SESSION_TOKEN", "{}"),
        ("SELF_MODELING_OPTUNA_STORAGE", "postgresql://user:{}@host/db"),
        ("MLFLOW_TRACKING_URI", "http://user:{}@host"),
    ],
)
def test_the_values_of_secret_variables_are_hidden_wherever_they_appear(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = 'pa ss"w\\ö&rd'
    monkeypatch.setenv(variable, value.replace("{}", secret))
    for form in (secret, quote(secret), quote_plus(secret), repr(secret)[1:-1], json.dumps(secret)):
        hidden = without_secrets(f"a worker said: {form}, twice: {form}.")
        assert form not in hidden
        assert hidden.startswith("a worker said: ")
        assert "***" in hidden


def test_what_is_no_secret_stays() -> None:
    for text in (
        "http://127.0.0.1:5000/path, mail to somebody@example.com",
        "sqlite:////runs:1@home/mlflow.db",
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment",
        "no password: give one",
        "trial_key=3fa9, tokens=100683, bypass=1",
        "postgresql://user@host/db",
    ):
        assert without_secrets(text) == text
        assert not has_secret(text)


def test_a_secret_is_found_in_a_url_and_taken_off() -> None:
    assert has_secret("http://user:pw@host")
    assert has_secret("postgresql://host/db?password=pw")
    assert without_user("http://user:pw@host:1/x") == "http://host:1/x"


def test_errors_of_the_libraries_that_quote_a_url_or_a_dsn_are_shown_without_the_password() -> None:
    password = "hunter22-of-the-test"
    errors: list[Exception] = []
    with pytest.raises(requests.RequestException) as caught:
        requests.get(f"http://127.0.0.1:9/?token={password}", timeout=1)
    errors.append(caught.value)
    with pytest.raises(requests.RequestException) as caught:
        requests.get(f"http://user:{password}@host:port/", timeout=1)
    errors.append(caught.value)
    with pytest.raises(psycopg2.Error) as caught_by_driver:
        psycopg2.connect(f"host=127.0.0.1 password={password} nonsense")
    errors.append(caught_by_driver.value)
    with pytest.raises(sqlalchemy.exc.ArgumentError) as caught_by_sqlalchemy:
        sqlalchemy.create_engine(f"postgresql//user:{password}@host")
    errors.append(caught_by_sqlalchemy.value)
    assert any(password in str(error) for error in errors), "otherwise this test shows nothing"
    for error in errors:
        assert password not in without_secrets(str(error))
        assert password not in without_secrets(repr(error))


def test_hiding_secrets_imports_nothing_that_takes_long() -> None:
    code = "import sys, study.errors; print([n for n in ('sqlalchemy', 'requests', 'mlflow') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_long_text_is_searched_in_no_time() -> None:
    # Patterns that go back and forth would take minutes for it.
    text = "//user:" * 20_000 + "@" + "password" * 20_000 + "%2F%2Fuser%3A" * 20_000
    assert without_secrets(text).endswith("%3A")
