"""The ledger: one SQLite file per run, written by one driver, readable by anybody at any time."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sartor.models  # noqa: F401  says where the specs of networks are defined
from sartor.core.candidate import Artifact, Candidate, Proposal, Quality
from sartor.core.cost import Amount, Cost
from sartor.core.errors import RunError

SCHEMA = 1
_TABLES = """
CREATE TABLE fact (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE candidate (
  id TEXT PRIMARY KEY, ask INTEGER UNIQUE NOT NULL, wave INTEGER NOT NULL, method TEXT NOT NULL, kind TEXT NOT NULL,
  proposal TEXT NOT NULL, setting TEXT, task TEXT NOT NULL, rung INTEGER NOT NULL, seed INTEGER NOT NULL,
  state TEXT NOT NULL, why TEXT NOT NULL);
CREATE TABLE parent (child TEXT NOT NULL, parent TEXT NOT NULL, role TEXT NOT NULL, PRIMARY KEY (child, parent, role));
CREATE TABLE amount (
  candidate TEXT NOT NULL, quantity TEXT NOT NULL, value REAL NOT NULL, unit TEXT NOT NULL, how TEXT NOT NULL,
  on_ TEXT NOT NULL, spread REAL, PRIMARY KEY (candidate, quantity));
CREATE TABLE quality (
  candidate TEXT NOT NULL, split TEXT NOT NULL, metric TEXT NOT NULL, value REAL NOT NULL, n INTEGER NOT NULL,
  how TEXT NOT NULL, PRIMARY KEY (candidate, split, metric));
CREATE TABLE artifact (candidate TEXT PRIMARY KEY, path TEXT NOT NULL, bytes INTEGER NOT NULL, sha256 TEXT NOT NULL);
CREATE TABLE event (at REAL NOT NULL, used REAL NOT NULL, candidate TEXT, text TEXT NOT NULL);
"""


class Ledger:
    """Candidates in the order they were asked for, with costs, qualities, artifacts and events.

    Every method that writes is one transaction: after a kill, a candidate is wholly there or as it was before.
    Raises RunError if the file is not a ledger or comes from a later version.
    """

    def __init__(self, path: Path, *, write: bool = True) -> None:
        self.path = path
        try:
            uri = f"{path.absolute().as_uri()}?mode={'rwc' if write else 'ro'}"
            self._db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30.0)
        except sqlite3.Error as error:
            raise RunError(f"{path} cannot be opened: {error}") from None
        try:
            self._db.execute("PRAGMA foreign_keys=ON")
            self._open(write)
        except (sqlite3.Error, RunError) as error:
            self._db.close()
            if isinstance(error, RunError):
                raise
            raise RunError(f"{path} cannot be opened as a run's ledger ({error}); name another run directory") from None

    def _open(self, write: bool) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA:
            raise RunError(f"{self.path} was written by a later version of sartor (schema {version}); upgrade sartor")
        if write:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
        if version == 0:
            if not write:
                raise RunError(f"{self.path} is not a run's ledger")
            self._db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={SCHEMA}; COMMIT;")

    def close(self) -> None:
        """Close the file; unfinished transactions are undone."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def fact(self, key: str) -> Any:
        """A value kept for the run (JSON), or None."""
        row = self._db.execute("SELECT value FROM fact WHERE key=?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def keep(self, **facts: Any) -> None:
        """Keep values for the run, replacing those of the same name."""
        with self._transaction():
            rows = [(key, json.dumps(value)) for key, value in facts.items()]
            self._db.executemany("INSERT OR REPLACE INTO fact VALUES (?, ?)", rows)

    def ask(self, candidates: Iterable[Candidate]) -> int:
        """Enter a wave of new candidates in order; returns its number. Ids already there are left as they are."""
        with self._transaction():
            (ask, wave) = self._db.execute(
                "SELECT COALESCE(MAX(ask), -1), COALESCE(MAX(wave), -1) FROM candidate"
            ).fetchone()
            for offset, c in enumerate(candidates, 1):
                p = c.proposal
                self._db.execute(
                    "INSERT OR IGNORE INTO candidate VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                    (c.id, ask + offset, wave + 1, p.method, p.kind, json.dumps(p.to_json()),
                     None if c.setting is None else json.dumps(c.setting), p.task, p.rung, p.seed, c.state, c.why),
                )  # fmt: skip
                self._db.executemany(
                    "INSERT OR IGNORE INTO parent VALUES (?,?,?)", [(c.id, q.id, q.role) for q in p.parents]
                )
                self._write_amounts(c)
        return int(wave) + 1

    def put(self, candidate: Candidate, used: float = 0.0) -> None:
        """Record what became of a candidate; ``used`` is the run's time used so far, in seconds."""
        c = candidate
        with self._transaction():
            self._db.execute("UPDATE candidate SET state=?, why=? WHERE id=?", (c.state, c.why, c.id))
            self._write_amounts(c)
            if c.quality is not None:
                rows = [(c.id, c.quality.split, m, v, c.quality.n, c.quality.how) for m, v in c.quality.values.items()]
                self._db.executemany("INSERT OR REPLACE INTO quality VALUES (?,?,?,?,?,?)", rows)
            if c.artifact is not None:
                a = c.artifact
                self._db.execute("INSERT OR REPLACE INTO artifact VALUES (?,?,?,?)", (c.id, a.path, a.bytes, a.sha256))
            self._event(f"{c.state}{': ' + c.why if c.why else ''}", used, c.id)

    def _write_amounts(self, c: Candidate) -> None:
        rows = [(c.id, name, a.value, a.unit, a.how, a.on, a.spread) for name, a in c.cost.amounts.items()]
        self._db.executemany("INSERT OR REPLACE INTO amount VALUES (?,?,?,?,?,?,?)", rows)

    def event(self, text: str, used: float = 0.0) -> None:
        """Write a line of the run's story."""
        with self._transaction():
            self._event(text, used, None)

    def _event(self, text: str, used: float, candidate: str | None) -> None:
        self._db.execute("INSERT INTO event VALUES (?,?,?,?)", (time.time(), used, candidate, text))

    def events(self) -> list[tuple[float, str | None, str]]:
        """The run's story: time used, candidate or None, text."""
        return self._db.execute("SELECT used, candidate, text FROM event ORDER BY rowid").fetchall()

    def used(self) -> float:
        """The time the run had used when it last recorded something, in seconds."""
        return float(self._db.execute("SELECT COALESCE(MAX(used), 0) FROM event").fetchone()[0])

    def waves(self) -> list[list[Candidate]]:
        """All candidates by wave, each wave in the order asked."""
        amounts: dict[str, dict[str, Amount]] = {}
        for id, name, *values in self._db.execute("SELECT * FROM amount"):
            amounts.setdefault(id, {})[name] = Amount(*values)
        qualities: dict[str, Quality] = {}
        for id, split, metric, value, n, how in self._db.execute("SELECT * FROM quality"):
            known = qualities.get(id)
            qualities[id] = Quality({**(known.values if known else {}), metric: value}, split, n, how)
        artifacts = {id: Artifact(*rest) for id, *rest in self._db.execute("SELECT * FROM artifact")}
        waves: list[list[Candidate]] = []
        query = "SELECT id, wave, proposal, setting, state, why FROM candidate ORDER BY ask"
        for id, wave, proposal, setting, state, why in self._db.execute(query):
            while len(waves) <= wave:
                waves.append([])
            waves[wave].append(
                Candidate(
                    id, Proposal.from_json(json.loads(proposal)), None if setting is None else json.loads(setting),
                    state, why, qualities.get(id), Cost(amounts.get(id, {})), artifacts.get(id),
                )
            )  # fmt: skip
        return waves

    def candidates(self) -> list[Candidate]:
        """All candidates in the order asked."""
        return [candidate for wave in self.waves() for candidate in wave]
