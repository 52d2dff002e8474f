from pathlib import Path

import pytest
from pydantic import SecretStr

from taskflow.errors import ConfigurationError
from taskflow.settings import (
    ApiSettings,
    ConsumerSettings,
    DoctorSettings,
    Settings,
    load_settings,
)

GOOD = {
    "TASKFLOW_DATABASE_URL": "postgresql://u:secret@localhost/db",
    "TASKFLOW_AMQP_URL": "amqp://u:secret@localhost/taskflow",
    "TASKFLOW_REDIS_URL": "redis://localhost",
    "TASKFLOW_S3_ENDPOINT": "http://localhost:9000",
    "TASKFLOW_S3_ACCESS_KEY": "a",
    "TASKFLOW_S3_SECRET_KEY": "s",
    "TASKFLOW_API_KEY": "tf_live_0123456789abcdef",
    "TASKFLOW_JWT_SECRET": "of_at_least_thirty_two_characters",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKFLOW_HANDLERS", " shop.jobs, media.jobs ,")
    monkeypatch.setenv("TASKFLOW_QUEUES", "")
    settings = load_settings(ConsumerSettings)
    assert settings.handlers == ("shop.jobs", "media.jobs")
    assert settings.queues == ()


def test_the_env_file_is_read_with_its_references(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TASKFLOW_S3_ENDPOINT")
    (tmp_path / ".env").write_text(
        "TASKFLOW_S3_PORT=9123\nTASKFLOW_S3_ENDPOINT=http://127.0.0.1:${TASKFLOW_S3_PORT}/\n"
    )
    assert load_settings(ApiSettings).s3_endpoint == "http://127.0.0.1:9123"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TASKFLOW_DATABASE_URL", "mysql://localhost"),
        ("TASKFLOW_AMQP_URL", "localhost:5672"),
        ("TASKFLOW_AMQP_URL", "amqp://u:secret@a/v,b:5672"),
        ("TASKFLOW_AMQP_URL", "amqp://u:secret@a/v,"),
        ("TASKFLOW_DATABASE_URL", "postgresql://u:secret@a:5432,b:many/db"),
        ("TASKFLOW_DATABASE_URL", "postgresql://u:secret/@a:5432/db"),
        ("TASKFLOW_AMQP_URL", "amqp://u:secret@a/v,amqp://u:secret@b:70000/v"),
        ("TASKFLOW_S3_ENDPOINT", "localhost:9000"),
        ("TASKFLOW_AMQP_URL", "amqp://u:secret@a,amqp://u:secret@b:many"),
        ("TASKFLOW_S3_ENDPOINT", "http://localhost:many"),
        ("TASKFLOW_DATABASE_URL", "postgresql://u:secret\u2100@a:many/db"),
        ("TASKFLOW_CONCURRENCY", "0"),
        ("TASKFLOW_CONCURRENCY", "many"),
        ("TASKFLOW_QUEUES", "a.b"),
        ("TASKFLOW_LEASE_SECONDS", "-1"),
        ("TASKFLOW_HEARTBEAT_SECONDS", "14"),
        ("TASKFLOW_LOG_LEVEL", "chatty"),
        ("TASKFLOW_LOG_FORMAT", "xml"),
        ("TASKFLOW_SHUTDOWN_GRACE_SECONDS", "nan"),
        ("TASKFLOW_OUTBOUND_ALLOWED_NETWORKS", "10.0.0.0/8,inner.example"),
        ("TASKFLOW_OUTBOUND_ALLOWED_NETWORKS", "10.0.0.1/8"),
        ("TASKFLOW_SMTP_SECURITY", "ssl"),
        ("TASKFLOW_SMTP_PORT", "0"),
        ("TASKFLOW_SMTP_HOST", "mail.example"),
        ("TASKFLOW_SMTP_FROM", "nobody"),
        ("TASKFLOW_SMTP_USERNAME", "taskflow"),
        ("TASKFLOW_SMTP_PASSWORD", "secret"),
    ],
)
def test_a_malformed_setting_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(ConsumerSettings)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "value", ["localhost:6379", "redis://:secret@localhost:many/0", "redis://:secret#@localhost/0"]
)
@pytest.mark.parametrize("settings_type", [ApiSettings, DoctorSettings])
def test_a_malformed_address_of_redis_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, value: str, settings_type: type[Settings]
) -> None:
    monkeypatch.setenv("TASKFLOW_REDIS_URL", value)
    with pytest.raises(ConfigurationError, match=r"\ATASKFLOW_REDIS_URL: .*\Z") as caught:
        load_settings(settings_type)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database_url", "postgresql://u:s%3Aecret@a:5432,[::1]:5433,c/db?sslmode=disable"),
        ("database_url", "postgresql:///db?host=/run/postgresql"),
        ("amqp_url", "amqps://u:sec%2Cret@[::1]:5671/v,amqp://u:secret@b"),
        ("redis_url", "unix:///run/redis.sock?db=1"),
        ("redis_url", "rediss://:secret@localhost:6379/0"),
    ],
)
def test_an_address_in_any_form_that_its_client_takes_stands(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"TASKFLOW_{name.upper()}", value)
    address: SecretStr = getattr(load_settings(DoctorSettings), name)
    assert address.get_secret_value() == value


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"JWT_SECRET": "secret"}, "TASKFLOW_JWT_SECRET"),
        ({"JWT_PREVIOUS_SECRET": "secret"}, "TASKFLOW_JWT_PREVIOUS_SECRET"),
        ({"ACCESS_TOKEN_SECONDS": "86400"}, "TASKFLOW_ACCESS_TOKEN_SECONDS"),
        ({"OIDC_ISSUER": "https://issuer.example"}, "TASKFLOW_OIDC_AUDIENCE"),
        ({"OIDC_ISSUER": "issuer.example", "OIDC_AUDIENCE": "a"}, "TASKFLOW_OIDC_ISSUER"),
        ({"OIDC_JWKS_URL": "file:///etc/keys"}, "TASKFLOW_OIDC_JWKS_URL"),
        ({"OIDC_ALGORITHMS": "RS256,HS256"}, "TASKFLOW_OIDC_ALGORITHMS"),
        ({"OIDC_ALGORITHMS": "none"}, "TASKFLOW_OIDC_ALGORITHMS"),
    ],
)
def test_what_would_make_tokens_worthless_is_refused(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], said: str
) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(f"TASKFLOW_{name}", value)
    with pytest.raises(ConfigurationError, match=said) as caught:
        load_settings(ApiSettings)
    assert "secret" not in str(caught.value)


def test_an_api_needs_no_secret_for_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TASKFLOW_JWT_SECRET")
    assert not load_settings(ApiSettings).jwt_secret.get_secret_value()


def test_networks_are_a_list_and_none_is_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKFLOW_TRUSTED_PROXIES", "10.0.0.0/8, 192.0.2.1,2001:db8::/32")
    monkeypatch.setenv("TASKFLOW_UNLIMITED_ADDRESSES", "none")
    settings = load_settings(ApiSettings)
    assert [str(network) for network in settings.trusted_proxies] == [
        "10.0.0.0/8",
        "192.0.2.1/32",
        "2001:db8::/32",
    ]
    assert settings.unlimited_addresses == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TASKFLOW_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("TASKFLOW_TRUSTED_PROXIES", "proxy.example.com"),
        ("TASKFLOW_TRUSTED_PROXIES", "10.0.0.0/8,"),
        ("TASKFLOW_FORWARDED_HEADER", "X-Real-IP"),
        ("TASKFLOW_ALLOWED_HOSTS", "*"),
        ("TASKFLOW_ALLOWED_HOSTS", "https://example.com"),
        ("TASKFLOW_CORS_ORIGINS", "*"),
        ("TASKFLOW_CORS_ORIGINS", "https://example.com/"),
        ("TASKFLOW_ADDRESS_LIMIT_SECONDS", "0"),
    ],
)
def test_a_door_that_would_not_close_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(ApiSettings)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_setting_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TASKFLOW_DATABASE_URL")
    with pytest.raises(ConfigurationError, match=r"TASKFLOW_DATABASE_URL: is not set.*make up"):
        load_settings(ApiSettings)


def test_an_env_file_that_is_no_text_is_said(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load_settings(ApiSettings)


def test_inner_networks_are_opened_by_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKFLOW_OUTBOUND_ALLOWED_NETWORKS", "10.1.0.0/16, fd00::/8,127.0.0.1")
    allowed = load_settings(ConsumerSettings).outbound_allowed_networks
    assert [str(network) for network in allowed] == ["10.1.0.0/16", "fd00::/8", "127.0.0.1/32"]


def test_a_password_for_mail_is_not_sent_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    mail = {
        "HOST": "mail.example",
        "FROM": "Jobs <jobs@a.example>",
        "USERNAME": "u",
        "PASSWORD": "p",
    }
    for name, value in mail.items():
        monkeypatch.setenv(f"TASKFLOW_SMTP_{name}", value)
    assert load_settings(ConsumerSettings).smtp_security == "starttls"
    monkeypatch.setenv("TASKFLOW_SMTP_SECURITY", "none")
    with pytest.raises(ConfigurationError, match="in the clear"):
        load_settings(ConsumerSettings)
