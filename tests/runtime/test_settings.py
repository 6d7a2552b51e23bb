"""Settings are read once, frozen, and refuse bad values by name."""

from __future__ import annotations

import dataclasses

import pytest

from billing.runtime.settings import Settings, SettingsError, read_settings


def test_defaults_need_no_environment() -> None:
    assert read_settings({"PATH": "/bin"}) == Settings()


def test_a_setting_is_read_under_its_name() -> None:
    settings = read_settings(
        {"TOLLWAY_GRPC_PORT": "0", "TOLLWAY_RATING_INTERVAL_S": "0.5", "TOLLWAY_SHARE_PORT": "true"}
    )
    assert (settings.grpc_port, settings.rating_interval_s, settings.share_port) == (0, 0.5, True)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("TOLLWAY_GRPC_PORT", "ten", "TOLLWAY_GRPC_PORT must be an integer, not 'ten'"),
        ("TOLLWAY_GRPC_PORT", "65536", "from 0 to 65535, not 65536"),
        ("TOLLWAY_STOP_GRACE_S", "nan", "from 0 to 300, not nan"),
        ("TOLLWAY_SHARE_PORT", "maybe", "true or false"),
        ("TOLLWAY_LOG_LEVEL", "LOUD", "DEBUG, INFO, WARNING or ERROR"),
        ("TOLLWAY_WEBHOOK_ALLOW_NETWORKS", "10.0.0.1/8", "networks such as"),
        ("TOLLWAY_TLS_CERT_FILE", "cert.pem", "TOLLWAY_TLS_KEY_FILE must be set together"),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_variable(
    variable: str, value: str, told: str
) -> None:
    with pytest.raises(SettingsError, match="TOLLWAY_") as refused:
        read_settings({variable: value})
    assert told in str(refused.value)


def test_what_a_process_needs_is_asked_for_by_name() -> None:
    with pytest.raises(SettingsError, match="TOLLWAY_DATABASE_URL must be set"):
        Settings().require("database_url")


def test_settings_are_frozen_and_do_not_show_the_secret() -> None:
    settings = Settings(secret_key="c2VjcmV0")
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.grpc_port = 1  # type: ignore[misc] # what the test is about
    assert "c2VjcmV0" not in repr(settings)
