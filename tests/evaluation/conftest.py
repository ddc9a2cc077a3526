import collections

import pytest
import studies

from ttoaa.evaluation import job as module


@pytest.fixture
def begun(finished, tmp_path):
    """The finished study, but for its tables and all but the plan; `deliver` brings the rest."""
    return studies.copy(finished[0], tmp_path / "work", "plan")


@pytest.fixture
def commits(monkeypatch):
    """How often each table was written."""
    counted, write = collections.Counter(), module.parquet_io.write_outcomes

    def count(table, path, source):
        counted["/".join(path.parts[-3:])] += 1
        write(table, path, source)

    monkeypatch.setattr(module.parquet_io, "write_outcomes", count)
    return counted
