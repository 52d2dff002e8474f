"""What TLS the settings make of the addresses."""

import ssl
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from taskflow.doctor.diagnosis import Level
from taskflow.doctor.privacy import check_privacy
from taskflow.errors import ConfigurationError
from taskflow.settings import (
    ApiSettings,
    ConsumerSettings,
    DoctorSettings,
    MigrationSettings,
    load_settings,
)
from taskflow.tls import certificate_problem

PLAIN = {
    "TASKFLOW_DATABASE_URL": "postgresql://u:secret@a,b/db",
    "TASKFLOW_AMQP_URL": "amqp://u:secret@a/v",
    "TASKFLOW_REDIS_URL": "redis://:secret@a",
    "TASKFLOW_S3_ENDPOINT": "http://a:9000",
    "TASKFLOW_S3_ACCESS_KEY": "a",
    "TASKFLOW_S3_SECRET_KEY": "s",
    "TASKFLOW_API_KEY": "tf_live_0123456789abcdef",
    "TASKFLOW_JWT_SECRET": "of_at_least_thirty_two_characters",
}
ALL_OTHERS = {
    "TASKFLOW_AMQP_URL": "amqps://a",
    "TASKFLOW_REDIS_URL": "rediss://a",
    "TASKFLOW_S3_ENDPOINT": "https://a",
}


@pytest.fixture
def ca_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file with an authority, whose path has to be quoted in a URL; and valid settings."""
    monkeypatch.chdir(tmp_path)
    for name, value in PLAIN.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "our authorities&more.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


def addresses() -> list[str]:
    settings = load_settings(ApiSettings)
    found: list[SecretStr] = [settings.database_url, settings.amqp_url, settings.redis_url]
    return [each.get_secret_value() for each in found]


def test_the_setting_holds_where_a_url_has_nothing_of_its_own(
    monkeypatch: pytest.MonkeyPatch, ca_file: Path
) -> None:
    monkeypatch.setenv("TASKFLOW_TLS_CA_FILE", ca_file.name)
    monkeypatch.setenv("TASKFLOW_AMQP_URL", "amqps://u:secret@a/v?heartbeat=3, amqps://u:secret@b")
    monkeypatch.setenv("TASKFLOW_REDIS_URL", "rediss://:secret@a/0")
    quoted = str(ca_file).replace("/", "%2F").replace(" ", "+").replace("&", "%26")
    assert addresses() == [
        f"postgresql://u:secret@a,b/db?sslmode=verify-full&sslrootcert={quoted}",
        f"amqps://u:secret@a/v?heartbeat=3&cafile={quoted},amqps://u:secret@b?cafile={quoted}",
        f"rediss://:secret@a/0?ssl_ca_certs={quoted}",
    ]
    assert load_settings(ConsumerSettings).tls_ca_file == str(ca_file)


def test_what_a_url_says_itself_stands(monkeypatch: pytest.MonkeyPatch, ca_file: Path) -> None:
    own = ca_file.parent / "own.pem"
    trustme.CA().cert_pem.write_to_path(str(own))
    urls = {
        "TASKFLOW_DATABASE_URL": f"postgresql://a/db?sslrootcert={own}&sslmode=verify-full",
        "TASKFLOW_AMQP_URL": f"amqps://a?cafile={own}",
        "TASKFLOW_REDIS_URL": f"rediss://a?ssl_ca_certs={own}&ssl_cert_reqs=required",
    }
    monkeypatch.setenv("TASKFLOW_TLS_CA_FILE", str(ca_file))
    for name, url in urls.items():
        monkeypatch.setenv(name, url)
    assert addresses() == list(urls.values())


def test_plain_addresses_stay_plain_where_they_say_so(
    monkeypatch: pytest.MonkeyPatch, ca_file: Path
) -> None:
    plain = [PLAIN[f"TASKFLOW_{name}_URL"] for name in ("DATABASE", "AMQP", "REDIS")]
    assert addresses() == plain
    monkeypatch.setenv("TASKFLOW_TLS_CA_FILE", str(ca_file))
    monkeypatch.setenv("TASKFLOW_DATABASE_URL", f"{plain[0]}?sslmode=disable")
    assert addresses() == [f"{plain[0]}?sslmode=disable", *plain[1:]]


def test_postgresql_is_checked_against_the_machines_authorities_where_none_are_named(
    monkeypatch: pytest.MonkeyPatch, ca_file: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    monkeypatch.setenv("TASKFLOW_DATABASE_URL", "postgresql://a/db?sslmode=verify-full")
    url = load_settings(MigrationSettings).database_url.get_secret_value()
    assert url.startswith("postgresql://a/db?sslmode=verify-full&sslrootcert=%2F")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    with pytest.raises(ConfigurationError, match="no file with authorities; TASKFLOW_TLS_CA_FILE"):
        load_settings(MigrationSettings)


def test_authorities_in_a_url_of_postgresql_are_asked(
    monkeypatch: pytest.MonkeyPatch, ca_file: Path
) -> None:
    own = ca_file.parent / "own.pem"
    own.write_bytes(ca_file.read_bytes())
    url = f"postgresql://a/db?sslrootcert={own}"
    monkeypatch.setenv("TASKFLOW_DATABASE_URL", url)
    assert addresses()[0] == f"{url}&sslmode=verify-full"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("TASKFLOW_DATABASE_URL", f"postgresql://u:secret@a/db?sslmode={mode}")
            for mode in ("allow", "prefer", "require", "verify-ca", "verify_ca", "nonsense")
        ),
        ("TASKFLOW_DATABASE_URL", "postgresql://u:secret@a/db?sslmode=verify-full&sslmode=require"),
        ("TASKFLOW_DATABASE_URL", "postgresql://u:secret@a/db?sslrootcert=/nowhere"),
        ("TASKFLOW_DATABASE_URL", "postgresql://u:secret@a/db?sslmode="),
        ("TASKFLOW_AMQP_URL", "amqps://u:secret@a/v?no_verify_ssl=1"),
        ("TASKFLOW_AMQP_URL", "amqps://u:secret@a/v?no_verify_ssl="),
        ("TASKFLOW_AMQP_URL", "amqps://u:secret@a/v?heartbeat=3&no_verify_ssl"),
        ("TASKFLOW_AMQP_URL", "amqps://u:secret@a/v?cafile="),
        ("TASKFLOW_AMQP_URL", "amqps://u:secret@a,amqps://u:secret@b?no_verify_ssl=true"),
        ("TASKFLOW_AMQP_URL", "amqps://u:secret@a/v?cafile=/nowhere"),
        ("TASKFLOW_AMQP_URL", "amqp://u:secret@a/v?cafile=/etc/hostname"),
        ("TASKFLOW_AMQP_URL", "amqp://u:secret@a/v?certfile=/some/file"),
        ("TASKFLOW_REDIS_URL", "rediss://:secret@a?ssl_cert_reqs=none"),
        ("TASKFLOW_REDIS_URL", "rediss://:secret@a?ssl_check_hostname=false"),
        ("TASKFLOW_REDIS_URL", "rediss://:secret@a?ssl_ca_certs=/nowhere"),
        ("TASKFLOW_REDIS_URL", "rediss://:secret@a?ssl_exclude_verify_flags=VERIFY_X509_STRICT"),
        ("TASKFLOW_REDIS_URL", "redis://:secret@a?ssl_certfile=/some/file"),
        ("TASKFLOW_TLS_CA_FILE", "/nowhere"),
        ("TASKFLOW_TLS_CA_FILE", "/"),
        ("TASKFLOW_TLS_CA_FILE", "/etc/hostname"),
    ],
)
def test_verification_is_not_switched_off_by_accident(
    monkeypatch: pytest.MonkeyPatch, ca_file: Path, name: str, value: str
) -> None:
    monkeypatch.setenv("TASKFLOW_TLS_CA_FILE", str(ca_file))
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=rf"\A{name}: .*\Z") as caught:
        load_settings(ApiSettings)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "url", "options"),
    [
        ("DATABASE", "postgresql://u:secret@a/db?sslmode=verify-full", ("sslcert", "sslkey")),
        ("AMQP", "amqps://u:secret@a/v?heartbeat=3", ("certfile", "keyfile")),
        ("REDIS", "rediss://:secret@a?protocol=3", ("ssl_certfile", "ssl_keyfile")),
    ],
)
def test_a_certificate_of_ours_that_is_not_there_stops_a_process_at_its_start(
    monkeypatch: pytest.MonkeyPatch, ca_file: Path, name: str, url: str, options: tuple[str, str]
) -> None:
    certificate, key = options
    own = trustme.CA().issue_cert("client.example")
    pem, key_pem, others = (ca_file.parent / name for name in ("a.pem", "a.key", "other.pem"))
    own.cert_chain_pems[0].write_to_path(str(pem))
    own.private_key_pem.write_to_path(str(key_pem))
    trustme.CA().cert_pem.write_to_path(str(others))
    monkeypatch.setenv("TASKFLOW_TLS_CA_FILE", str(ca_file))

    def start(pem: Path | str, key_pem: Path) -> None:
        monkeypatch.setenv(f"TASKFLOW_{name}_URL", f"{url}&{certificate}={pem}&{key}={key_pem}")
        load_settings(ApiSettings)

    start(pem, key_pem)
    for wrong in ("/nowhere", others, ""):
        with pytest.raises(ConfigurationError, match=rf"\ATASKFLOW_{name}_URL: {certificate} "):
            start(wrong, key_pem)


def test_what_is_no_certificates_matter_is_not_called_one() -> None:
    assert certificate_problem(None) is None
    circle = OSError("away")
    circle.__context__ = ssl.SSLError("handshake failed")
    circle.__context__.__context__ = circle
    assert certificate_problem(circle) is None


@pytest.mark.parametrize(
    ("changes", "level", "text"),
    [
        ({}, Level.OK, "none is asked for"),
        ({"TASKFLOW_S3_ENDPOINT": "https://a"}, Level.WARN, "none to PostgreSQL, RabbitMQ, Redis"),
        (
            {
                "TASKFLOW_DATABASE_URL": "postgresql:///db?host=/run/postgresql",
                "TASKFLOW_AMQP_URL": "amqps://a,amqps://b",
                "TASKFLOW_REDIS_URL": "unix:///run/redis.sock",
                "TASKFLOW_S3_ENDPOINT": "http://[::1]:9000",
            },
            Level.OK,
            "asked for of RabbitMQ",
        ),
        (
            {
                "TASKFLOW_DATABASE_URL": "postgresql://u:secret@a/db?sslmode=verify-full",
                "TASKFLOW_AMQP_URL": "amqps://a,amqp://b",
                "TASKFLOW_REDIS_URL": "redis://:secret@127.0.0.1:6379",
                "TASKFLOW_S3_ENDPOINT": "http://localhost:9000",
            },
            Level.WARN,
            "none to RabbitMQ",
        ),
        ({"TASKFLOW_DATABASE_URL": "postgresql://a?sslmode=verify_full"}, Level.WARN, "to Rabbit"),
        ({"TASKFLOW_REDIS_URL": "rediss://a"}, Level.WARN, "none to PostgreSQL, RabbitMQ, S3"),
        *(
            (ALL_OTHERS | {"TASKFLOW_DATABASE_URL": url}, Level.WARN, "none to PostgreSQL")
            for url in ("postgresql:///db?host=a", "postgresql://localhost,a:5433/db")
        ),
        *(
            (ALL_OTHERS | {"TASKFLOW_DATABASE_URL": url}, Level.OK, "of RabbitMQ, Redis, S3")
            for url in (
                "postgresql://u:secret@%2Frun%2Fpostgresql/db",
                "postgresql://u:secret@[::1]:5432,127.0.0.1:5433/db",
                "postgresql:///db?host=/run/postgresql&user=u",
            )
        ),
    ],
)
def test_the_doctor_says_where_tls_was_forgotten(
    monkeypatch: pytest.MonkeyPatch,
    ca_file: Path,
    changes: dict[str, str],
    level: Level,
    text: str,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    diagnosis = check_privacy(load_settings(DoctorSettings))
    assert (diagnosis.level, text in diagnosis.text) == (level, True), diagnosis.text
    assert "secret" not in diagnosis.text
