"""TLS to PostgreSQL, RabbitMQ, Redis and S3: whose certificates count, always with their names.

The URLs are completed once, as the settings are read: asyncpg, aio-pika and redis-py take from
them what they need, in whatever process. An option that would encrypt and verify nothing is
refused, so that nobody is left without verification by accident.
"""

import ssl
from pathlib import Path
from urllib.parse import parse_qs, urlencode

CA_SETTING = "TASKFLOW_TLS_CA_FILE"

_AMQP_AUTHORITIES = frozenset({"cafile", "capath", "cadata"})
_AMQP_OPTIONS = _AMQP_AUTHORITIES | {"certfile", "keyfile"}
_REDIS_HARMLESS = {"ssl_cert_reqs": "required", "ssl_check_hostname": "true"}
_REDIS_OPTIONS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_password"})


def authorities_file(path: str) -> str:
    """The absolute path of a file with certificates of authorities.

    Raises:
        ValueError: there is none, or nothing in it is one.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise ValueError(f"{path} holds no certificates in PEM form") from error
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror or error}") from error
    return str(Path(path).absolute())


def verified_postgresql(url: str, ca_file: str) -> str:
    """The URL, with `sslmode` and `sslrootcert` where it or `ca_file` asks for TLS.

    Raises:
        ValueError: it asks for TLS without verification, or its authorities can't be read.
    """
    options = _options(url)
    modes = {mode.replace("_", "-") for mode in options.get("sslmode", [])}
    if modes - {"disable", "verify-full"}:
        raise ValueError(
            "sslmode must be verify-full, or disable for no TLS at all: every other one accepts"
            " the certificate of a stranger"
        )
    named = [authorities_file(path) for path in options.get("sslrootcert", [])]
    if "sslkey" in options:
        # Without it asyncpg looks for a key in places of its own.
        _check_own_certificate(options, "sslcert", "sslkey", "sslpassword")
    if "disable" in modes or not (modes or named or ca_file):
        return url
    added = {} if modes else {"sslmode": "verify-full"}
    if not named:
        # asyncpg knows nothing of the machine's, but looks into the home of whoever runs it.
        added["sslrootcert"] = ca_file or _authorities_of_the_machine()
    return _with_options(url, added)


def verified_amqp(url: str, ca_file: str) -> str:
    """The URL of one node, with `cafile` where it begins with amqps://.

    Raises:
        ValueError: it asks for TLS without verification, or has an option of TLS without TLS.
    """
    options = _options(url)
    if any(value != "0" for value in options.get("no_verify_ssl", [])):
        raise ValueError("no_verify_ssl would accept the certificate of a stranger")
    for path in options.get("cafile", []):
        authorities_file(path)
    if not url.startswith("amqps://"):
        if _AMQP_OPTIONS & options.keys():
            raise ValueError("has options of TLS, but only amqps:// is encrypted")
        return url
    _check_own_certificate(options, "certfile", "keyfile")
    if ca_file and not _AMQP_AUTHORITIES & options.keys():
        return _with_options(url, {"cafile": ca_file})
    return url


def verified_redis(url: str, ca_file: str) -> str:
    """The URL, with `ssl_ca_certs` where it begins with rediss://.

    Raises:
        ValueError: it has an option of TLS that weakens it, or one without TLS.
    """
    options = _options(url)
    asked = {name for name in options if name.startswith("ssl_")}
    harmless = {name for name, value in _REDIS_HARMLESS.items() if options.get(name) == [value]}
    if asked - _REDIS_OPTIONS - harmless:
        raise ValueError(f"of the options of TLS only {', '.join(sorted(_REDIS_OPTIONS))} are here")
    if asked and not url.startswith("rediss://"):
        raise ValueError("has options of TLS, but only rediss:// is encrypted")
    for path in options.get("ssl_ca_certs", []):
        authorities_file(path)
    _check_own_certificate(options, "ssl_certfile", "ssl_keyfile", "ssl_password")
    if url.startswith("rediss://") and ca_file and "ssl_ca_certs" not in options:
        return _with_options(url, {"ssl_ca_certs": ca_file})
    return url


def certificate_problem(error: BaseException | None) -> str | None:
    """What is wrong with a server's certificate, if that is at the bottom of `error`."""
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {each.verify_message} (see {CA_SETTING})"
        # urllib3 keeps the cause among the arguments.
        told = [argument for argument in each.args if isinstance(argument, BaseException)]
        waiting += [each.__cause__, each.__context__, *told]
    return None


def _authorities_of_the_machine() -> str:
    path = ssl.get_default_verify_paths().cafile
    if path is None:
        raise ValueError(f"this machine has no file with authorities; {CA_SETTING} names another")
    return path


def _check_own_certificate(
    options: dict[str, list[str]], certificate: str, key: str, password: str = ""
) -> None:
    """What we are to show of ourselves has to be there; `certificate` and the others are names."""
    path, key_path, secret = (options.get(each, [""])[0] for each in (certificate, key, password))
    if not path and not key_path:
        return
    try:
        # OpenSSL would ask the terminal for a password that it isn't given.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
            path, key_path or None, password=lambda: secret
        )
    except ssl.SSLError as error:
        raise ValueError(f"{certificate} and {key} hold no certificate with its key") from error
    except OSError as error:
        why = error.strerror or error
        raise ValueError(f"{certificate} or {key} can't be read: {why}") from error


def _options(url: str) -> dict[str, list[str]]:
    # An option without a value counts: to aio-pika any `no_verify_ssl` but 0 is a yes.
    return parse_qs(url.partition("#")[0].partition("?")[2], keep_blank_values=True)


def _with_options(url: str, options: dict[str, str]) -> str:
    # By hand, as these URLs are read elsewhere: several hosts have commas between them.
    address, mark, fragment = url.partition("#")
    joint = "&" if "?" in address else "?"
    return f"{address}{joint}{urlencode(options)}{mark}{fragment}" if options else url
