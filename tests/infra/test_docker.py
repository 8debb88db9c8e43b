"""The images cannot be built here, but that they are well made can be seen; compose is held against its own schema."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from dockerfile_parse import DockerfileParser

from orchestrator.cli import COMMANDS
from orchestrator.cli.daemon import METRICS

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "infra" / "docker"
FILES = sorted(DOCKER.glob("Dockerfile.*"))
#: of the Compose specification, Apache-2.0, as docker-compose 1.29.2 carries it
SCHEMA = json.loads(Path(__file__).with_name("compose-spec.json").read_text("utf-8"))


def instructions(path: Path) -> list[tuple[str, str]]:
    parsed = DockerfileParser(fileobj=path.open("rb")).structure
    return [(one["instruction"], one["value"]) for one in parsed if one["instruction"] != "COMMENT"]


def values(path: Path, name: str) -> list[str]:
    return [value for instruction, value in instructions(path) if instruction == name]


def test_there_is_one_for_processors_and_one_for_cards() -> None:
    assert [path.suffix for path in FILES] == [".cpu", ".gpu"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.suffix[1:])
def test_an_image_is_well_made(path: Path) -> None:
    known = {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK"}
    names = [name for name, _ in instructions(path)]
    assert {*names} <= known | {"ENTRYPOINT", "CMD"}  # no ADD, no SHELL, nothing misspelt
    for base in values(path, "FROM"):
        assert re.match(r"python:3\.1[1-9]-slim-bookworm( AS \w+)?$", base), base  # pinned, and none is `latest`
    assert values(path, "USER")[-1].isdigit() and values(path, "USER")[-1] != "0"  # a number: no name has to be known
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert not [value for name, value in instructions(path)[names.index("USER") :] if name == "RUN"]
    assert "HEALTHCHECK" in names
    assert values(path, "ENTRYPOINT") == ['["halve"]']
    command = json.loads(values(path, "CMD")[0])
    assert command[0] in COMMANDS
    for ran in values(path, "RUN"):
        if "pip install" in ran:
            assert "--no-cache-dir" in ran and re.search(r"-c (\S+)", ran), ran  # pinned, and nothing left behind
        assert "curl" not in ran and "sudo" not in ran


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.suffix[1:])
def test_what_is_copied_is_there_and_is_sent(path: Path) -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for copied in values(path, "COPY"):
        if copied.startswith("--from"):
            continue
        *sources, _ = copied.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert any(Path(source).match(pattern) for pattern in sent), source


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.suffix[1:])
def test_what_the_package_is_built_of_is_copied(path: Path) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    forced = re.findall(r'^"(infra/[\w-]+)" = ', project, re.MULTILINE)
    copied = " ".join(values(path, "COPY"))
    assert forced
    assert [folder for folder in ("orchestrator", "inference", "policies", *forced) if folder not in copied] == []
    extras = re.search(r"'\.\[([\w,]+)\]'", " ".join(values(path, "RUN")))
    assert extras is not None
    assert [extra for extra in extras[1].split(",") if not re.search(rf"^{extra} = \[", project, re.MULTILINE)] == []


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text("utf-8"))
    return found


def test_compose_is_what_its_specification_allows() -> None:
    jsonschema.Draft201909Validator(SCHEMA).validate(compose())
    wrong = compose()
    wrong["services"]["halve"]["restrat"] = "always"
    with pytest.raises(jsonschema.ValidationError, match="restrat"):
        jsonschema.Draft201909Validator(SCHEMA).validate(wrong)


def test_compose_names_what_there_is() -> None:
    services, volumes = compose()["services"], {*compose()["volumes"]}
    halve = services["halve"]
    assert (DOCKER / halve["build"]["context"] / halve["build"]["dockerfile"]).resolve().is_file()
    assert halve["command"][0] in COMMANDS
    assert METRICS in " ".join(halve["healthcheck"]["test"])
    for name, service in services.items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (DOCKER / source).exists() if source.startswith(".") else source in volumes, volume
        assert not service.get("image", "").endswith(":latest")
