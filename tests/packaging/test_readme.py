"""What README tells a newcomer to do works on a clean Debian, word for word, and its links lead on.

The commands and the documents are those of README itself: none is repeated here.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import package
import pytest
from box import Box, box
from waiting import wait_until

README = package.SOURCE / "README.md"
HEADING = "## From nothing to a delivering node"
# Containers have no network: what the first commands would fetch is there.
FETCHED = """build-essential debhelper dh-python openssl pybuild-plugin-pyproject python3-all
python3-setuptools sqlite3"""
CHECKOUT = "/root/checkout"
DOCUMENTS = "/usr/share/doc/sensor-node"
# Whoever follows the README answers apt's question.
SAYS_YES = "/etc/apt/apt.conf.d/says-yes"
# As Debian's installer writes it.
HOSTS = r"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
BLOCK_SECONDS = 300.0
FEW = 3


def commands() -> list[str]:
    """The section's blocks of commands."""
    section = README.read_text().split(f"\n{HEADING}\n")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def links(document: Path) -> set[str]:
    """Relative ones, without the place inside of what they lead to."""
    found = {
        link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    }
    return {link for link in found if link and ":" not in link}


@pytest.fixture
def fresh() -> Iterator[Box]:
    """Without the package; with a checkout of its source."""
    with box("readme", more=FETCHED.split()) as made:
        package.checkout(Path(f"{made.container.root}{CHECKOUT}"))
        made.run(f"echo 'APT::Get::Assume-Yes true;' >{SAYS_YES}")
        made.run(f"printf '{HOSTS}' >/etc/hosts")
        yield made


def test_who_follows_the_readme_has_readings_at_a_sink_with_tls_and_a_token(fresh: Box) -> None:
    blocks = commands()
    assert len(blocks) >= 4
    for block in blocks:
        script = f"set -e; cd {CHECKOUT}\nexport DEBIAN_FRONTEND=noninteractive\n{block}"
        said = fresh.run(script, timeout=BLOCK_SECONDS)
        print(f"{block}\n{said.stdout}{said.stderr}")

    look = blocks[-1]
    wait_until(lambda: arrived(fresh, look) >= FEW, 60, "readings arrive", fresh.story)
    assert fresh.run("systemctl is-enabled sensor-node").stdout == "enabled\n"
    assert fresh.ctl("check").stderr == ""
    assert fresh.status()["notes"] == [] and fresh.status()["problems"] == []
    settings = fresh.ctl("check", "--print").stdout
    assert re.search(r"^\[sink\] url = https://", settings, re.MULTILINE), settings

    token = re.search(r"^\[sink\] token_file = (\S+)", settings, re.MULTILINE)[1]
    fresh.run(f"cp -p {token} /root/right && echo wrong >{token}")
    wait_until(lambda: "401" in str(fresh.status()["sink"]["reason"]), 60, "401", fresh.story)
    before = arrived(fresh, look)
    fresh.run(f"cp -p /root/right {token}")
    wait_until(lambda: arrived(fresh, look) > before, 60, "it delivers again", fresh.story)


def test_the_readmes_flask_sink_takes_readings_once_each(deb: Path) -> None:
    text = README.read_text()
    code = re.search(r"In Flask, `(\S+)`:\n\n```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    command = re.search(r"^\$ \S*/(flask --app .*?) *(#.*)?$", text, re.MULTILINE)
    with box("flask", deb, more=["python3-flask"]) as node:
        node.write(f"/srv/{code[1]}", code[2])
        node.run(f"systemd-run --quiet --unit=sink --working-directory=/srv {command[1]}")
        node.configure("[sensor:temperature]\nrate = 20\n[retry]\nmax_delay = 2s\n")
        node.ctl("start")
        node.await_captured(40)
        node.await_delivered()
        node.ctl("stop")
        sent = node.status()["counts"]["sent"]
        stored = node.query("SELECT count(*) FROM reading", "/srv/readings.db")[0][0]
        assert 40 <= sent <= stored <= node.captured()


def arrived(node: Box, look: str) -> int:
    """How many readings the sink has, by the last number that the README's look at it prints."""
    last = node.run(look, check=False).stdout.rpartition("|")[2].strip()
    return int(last) if last.isdecimal() else 0


def test_each_link_of_the_installed_documents_leads_to_a_file(installed: Box) -> None:
    root = Path(installed.container.root)
    documents = sorted((root / DOCUMENTS[1:]).rglob("*.md"))
    names = [str(document.relative_to(root / DOCUMENTS[1:])) for document in documents]
    assert {"README.md", "CHANGELOG.md", "docs/architecture.md"} <= set(names), names
    walked = 0
    for document in documents:
        for link in links(document):
            target = f"/{document.parent.relative_to(root)}/{unquote(link)}"
            assert installed.run(["test", "-e", target], check=False).returncode == 0, target
            walked += 1
    print(f"{walked} links in {len(documents)} documents")
    assert walked > 20


def test_each_link_of_the_checkouts_documents_leads_to_a_file() -> None:
    for document in (README, *package.SOURCE.glob("*.md"), *package.SOURCE.glob("docs/**/*.md")):
        for link in links(document):
            assert (document.parent / unquote(link)).exists(), (document, link)
