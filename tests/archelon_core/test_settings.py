"""Settings: their sources, and the error texts for invalid ones."""

from __future__ import annotations

from pathlib import Path

import pydantic
import pytest

from archelon_core.settings import Settings, SettingsError

SECRET = "hunter2-hunter2"


class Account(pydantic.BaseModel):
    user: str
    password: pydantic.SecretStr


class Demo(Settings):
    accounts: list[Account] | None = None
    port: int = pydantic.Field(8080, ge=1, le=65535, description="the TCP port to listen on", examples=[8080])
    database_url: pydantic.SecretStr = pydantic.Field(
        description="where state is kept", examples=["sqlite:////state.db"]
    )
    keys: list[pydantic.SecretStr] = pydantic.Field(default=[], description="encryption keys, the current one first")
    networks: tuple[str, ...] = ()
    limits: dict[str, int] | None = None
    endpoint: pydantic.HttpUrl | None = None

    @pydantic.field_validator("database_url")
    @classmethod
    def _check(cls, value: pydantic.SecretStr) -> pydantic.SecretStr:
        if "://" not in value.get_secret_value():
            raise ValueError(f"{value.get_secret_value()} is no URL")
        return value


GOOD = {"ARCHELON_DATABASE_URL": f"postgresql://u:{SECRET}@h/n"}


def problems(environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Demo.load(environ)
    assert SECRET not in str(caught.value)
    return list(caught.value.problems)


def test_the_environment() -> None:
    settings = Demo.load(
        {
            **GOOD,
            "ARCHELON_PORT": "9000",
            "ARCHELON_KEYS": f"{SECRET}1, {SECRET}2",
            "ARCHELON_NETWORKS": '["10.0.0.0/8"]',
            "ARCHELON_LIMITS": '{"a": 1}',
            "PATH": "/bin",
        }
    )
    assert (settings.port, settings.networks, settings.limits) == (9000, ("10.0.0.0/8",), {"a": 1})
    assert settings.secret_values() == (GOOD["ARCHELON_DATABASE_URL"], f"{SECRET}1", f"{SECRET}2")
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()
    with pytest.raises(pydantic.ValidationError):
        settings.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.yaml", "port: 9000\nkeys: [abcd]\n"),
        ("a.yml", "{port: 9000, keys: [abcd]}"),
        ("a.toml", 'port = 9000\nkeys = ["abcd"]'),
    ],
)
def test_the_environment_overrides_the_file(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    environ = {**GOOD, "ARCHELON_CONFIG": str(tmp_path / name)}
    assert Demo.load(environ).port == 9000
    assert Demo.load({**environ, "ARCHELON_PORT": "9001"}).port == 9001
    assert [key.get_secret_value() for key in Demo.load(environ).keys] == ["abcd"]


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("databse_url: x\nlog_level: LOUD\n")
    assert problems({"ARCHELON_CONFIG": str(path), "ARCHELON_PORT": "eighty", "ARCHELON_PROT": SECRET}) == [
        f"databse_url (from file {path}): no such setting; did you mean database_url?",
        "ARCHELON_PROT (from environment variable ARCHELON_PROT): no such setting; did you mean ARCHELON_PORT?",
        f"log_level = 'LOUD' (from file {path}): input should be 'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'; "
        "it is minimum level of log lines",
        "port = 'eighty' (from environment variable ARCHELON_PORT): input should be a valid integer, unable to parse "
        "string as an integer; it is the TCP port to listen on, for example 8080",
        "database_url is not set; set ARCHELON_DATABASE_URL, or database_url in the file that ARCHELON_CONFIG names; "
        "it is where state is kept, for example 'sqlite:////state.db'",
    ]


def test_a_wrong_secret_is_not_shown() -> None:
    assert problems({"ARCHELON_DATABASE_URL": SECRET}) == [
        "database_url = (hidden) (from environment variable ARCHELON_DATABASE_URL): (hidden) is no URL; "
        "it is where state is kept, for example 'sqlite:////state.db'"
    ]
    assert "hunter2" not in problems({**GOOD, "ARCHELON_KEYS": '{"a": "' + SECRET + '"}'})[0]
    assert "(hidden)@" in problems({**GOOD, "ARCHELON_ENDPOINT": f"ftp://u:{SECRET}@h"})[0]


def test_a_secret_inside_a_model() -> None:
    good = '[{"user": "a", "password": "' + SECRET + '"}]'
    assert SECRET in Demo.load({**GOOD, "ARCHELON_ACCOUNTS": good}).secret_values()
    text = problems({**GOOD, "ARCHELON_ACCOUNTS": good.replace("user", "usr")})[0]
    assert text.startswith("accounts[0]['user'] = (hidden) (from ")


def test_places_inside_a_value() -> None:
    assert problems({**GOOD, "ARCHELON_LIMITS": '{"a": "x"}'})[0].startswith("limits['a'] = {'a': 'x'} (from ")
    assert problems({**GOOD, "ARCHELON_LIMITS": "{broken"})[0].startswith("limits = '{broken' (from ")


def test_a_name_in_the_wrong_case_is_unknown() -> None:
    assert "did you mean ARCHELON_PORT?" in problems({**GOOD, "Archelon_Port": "1", "ARCHELON_port": "1"})[0]


def test_a_name_without_a_near_match_lists_all_names() -> None:
    assert "expected one of ARCHELON_ACCESS_LOG, " in problems({**GOOD, "ARCHELON_ZZZZZZZZ": "1"})[0]


def test_variables_that_kubernetes_and_the_tests_set() -> None:
    environ = {
        **GOOD,
        "ARCHELON_SERVICE_HOST": "10.0.0.1",
        "ARCHELON_SERVICE_PORT": "80",
        "ARCHELON_SERVICE_PORT_HTTP": "80",
        "ARCHELON_PORT": "tcp://10.0.0.1:80",
        "ARCHELON_PORT_80_TCP": "tcp://10.0.0.1:80",
        "ARCHELON_DEPLOY_PORT_80_TCP_ADDR": "10.0.0.1",
        "ARCHELON_TEST_POSTGRES": "x",
    }
    assert Demo.load(environ).port == 8080


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.yaml", f"a: [{SECRET}", "a.yaml:2:1: $.a[1]: this is not YAML: "),
        ("a.yaml", f"a: 1\n{SECRET}\nb: 2", "a.yaml:3:1: this is not YAML: "),
        ("a.yaml", "!!python/object/apply:os.system [id]", "a.yaml:1:1: the tag !!python/object/apply:os.system"),
        ("a.yaml", "- a", "is not a map"),
        ("a.yaml", "a: \x01", "a.yaml:1:4: this is not YAML: a control character"),
        ("a.toml", f"a = {SECRET}", "is not TOML at line 1, column"),
        ("a.yaml", f"a: 1\na: {SECRET}", "a.yaml:2:1: $.a: the key is given twice, first on line 1; keep one of them"),
        ("a.yaml", "a: 1\n---\nb: 2", "a.yaml:3:1: a second document; keep one document a file"),
        ("a.json", "{}", "end its name in"),
        ("a.yaml", "#" * 1024 * 1024 + "#", "larger than"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    assert says in problems({**GOOD, "ARCHELON_CONFIG": str(tmp_path / name)})[0]


def test_a_file_that_is_missing() -> None:
    assert "No such file or directory; name a file" in problems({**GOOD, "ARCHELON_CONFIG": "/nowhere/a.yaml"})[0]


def test_an_empty_file_is_valid(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# nothing yet\n")
    assert Demo.load({**GOOD, "ARCHELON_CONFIG": str(tmp_path / "a.yaml")}).port == 8080


def test_an_unset_secret_is_not_listed() -> None:
    settings = Demo.load({**GOOD, "ARCHELON_ACCOUNTS": '[{"user": "me", "password": ""}]'})
    assert settings.secret_values() == (GOOD["ARCHELON_DATABASE_URL"],)


def test_a_short_metrics_token_is_refused() -> None:
    (problem,) = problems({**GOOD, "ARCHELON_METRICS_TOKEN": SECRET})
    assert "ARCHELON_METRICS_TOKEN" in problem
    assert "32 characters" in problem
    assert Demo.load({**GOOD, "ARCHELON_METRICS_TOKEN": "t" * 32}).metrics_token.get_secret_value() == "t" * 32
