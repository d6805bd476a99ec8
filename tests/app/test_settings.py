"""Settings come from flags, then the environment, then defaults; a wrong one is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import app.settings
from app.commands.serve import command
from app.settings import ENV_PREFIX, Settings, SettingsError, load


def test_every_setting_is_an_option_and_described() -> None:
    assert set(command.__annotations__) - {"return"} == set(Settings.model_fields)
    for field in Settings.model_fields.values():
        assert field.description
        assert field.description.endswith(".")


def test_flags_before_environment_before_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTWORD_PORT", "9001")
    monkeypatch.setenv("NEXTWORD_MAX_BATCH", "7")
    settings = load(port=9002)
    assert (settings.port, settings.max_batch, settings.session_ttl_seconds) == (9002, 7, 1800)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "70000"),
        ("port", "http"),
        ("max_batch", "0"),
        ("runtime", "abacus"),
        ("session_ttl_seconds", "0"),
        ("threads", "0"),
        ("log_level", "loud"),
        ("drain_seconds", "-1"),
        ("host", ""),
    ],
)
def test_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(ENV_PREFIX + name.upper(), value)
    with pytest.raises(SettingsError) as caught:
        load()
    message = str(caught.value)
    assert message.startswith(f"{ENV_PREFIX}{name.upper()} or --{name.replace('_', '-')}: ")
    assert repr(value) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("given", "name", "reason"),
    [
        ({"metrics": "keyed"}, "metrics", "there are no keys"),
        ({"max_sessions_per_key": 5}, "max_sessions_per_key", "there are no keys"),
        ({"cors_origins": "https://page.example/"}, "cors_origins", "'https://page.example/' is no origin"),
        ({"cors_origins": "https://a.example, page.example"}, "cors_origins", "'page.example' is no origin"),
        ({"cors_origins": "null"}, "cors_origins", "'null' is no origin"),
    ],
)
def test_setting_that_would_not_do_what_it_says_is_refused(given: dict[str, object], name: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(**given)
    assert str(caught.value).startswith(f"{ENV_PREFIX}{name.upper()} or --{name.replace('_', '-')}: ")
    assert reason in str(caught.value)


def test_settings_that_do_what_they_say() -> None:
    keys = {"api_keys": "a-key-that-is-long-enough"}
    assert load(metrics="keyed", max_sessions_per_key=5, **keys).metrics == "keyed"
    for origins in (
        "",
        "*",
        "https://page.example",
        "http://localhost:3000, https://[::1]:8443",
        "chrome-extension://x",
    ):
        assert load(cors_origins=origins).cors_origins == origins


def test_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTWORD_SESSION_KEY", "too short")
    with pytest.raises(SettingsError, match="NEXTWORD_SESSION_KEY") as caught:
        load()
    assert "too short" not in str(caught.value)
    monkeypatch.setenv("NEXTWORD_SESSION_KEY", "long enough to be a key")
    assert "long enough" not in repr(load())


def test_secrets_are_read_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.settings, "SECRETS_DIRECTORY", tmp_path / "none")
    assert load().session_key is None
    monkeypatch.setattr(app.settings, "SECRETS_DIRECTORY", tmp_path)
    (tmp_path / "nextword_session_key").write_text("a key that comes from a file\n")
    (tmp_path / "somebody_elses").write_text("anything")
    key = load().session_key
    assert key is not None
    assert key.get_secret_value() == "a key that comes from a file"
    monkeypatch.setenv("NEXTWORD_SESSION_KEY", "a key that comes before that")
    key = load().session_key
    assert key is not None
    assert key.get_secret_value() == "a key that comes before that"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file: tests/containers tries it as another user")
def test_secret_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.settings, "SECRETS_DIRECTORY", tmp_path)
    file = tmp_path / "nextword_session_key"
    file.touch(0)
    with pytest.raises(SettingsError, match=f"{file}: Permission denied"):
        load()


def test_variable_that_is_no_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would do nothing, and nobody would know."""
    monkeypatch.setenv("NEXTWORD_MAX_BACH", "5")
    monkeypatch.setenv("NEXTWORD_WORKERS", "5")
    with pytest.raises(SettingsError) as caught:
        load()
    assert str(caught.value).splitlines() == [
        "NEXTWORD_MAX_BACH: there is no such setting; did you mean NEXTWORD_MAX_BATCH?",
        "NEXTWORD_WORKERS: there is no such setting",
    ]


def test_variables_that_containers_find_in_their_environment_are_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_8000_TCP", "PORT_8000_TCP_ADDR"):
        monkeypatch.setenv(f"NEXTWORD_{name}", "tcp://10.0.0.1:8000")
    assert load().port == 8000


def test_unknown_setting_is_refused() -> None:
    with pytest.raises(SettingsError, match="NEXTWORD_MAX_BACH"):
        load(max_bach=5)
