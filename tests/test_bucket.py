"""Files, folders and locks of a study in an emulated bucket, seen from two machines."""

import concurrent.futures
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import buckets
import pytest

from ttoaa import bucket, locks, shared_files, workdir
from ttoaa.gcs_objects import Object
from ttoaa.locks import CheckpointGone, Leases, deletion_mark, list_leases, pin
from ttoaa.training import throughput
from ttoaa.training.throughput import Attempts

STUDY = "gs://bucket/mine"


@pytest.fixture
def there(monkeypatch, tmp_path):
    """Goes to the machine of this name; returns its copy of the study."""
    with buckets.emulated(monkeypatch, tmp_path / "one"):

        def go(machine="one"):
            buckets.enter(monkeypatch, tmp_path / machine)
            return bucket.local_path(STUDY)

        yield go


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def objects():
    return sorted(name for name, _ in Object("bucket", "mine").files())


def test_what_one_machine_writes_another_reads_and_removes(there):
    one = there()
    workdir.write_text(one / "config.gin", "first")
    workdir.write_text(one / "alone/profile/ledger.json", "an experiment of that name")
    workdir.write_text(one / "run/profile/trace", "kept")
    workdir.write_text(one / "corpus/unfinished/part", "not uploaded")
    workdir.write_text(one / "corpus.fetching/train-00000.bin", "not uploaded")
    with workdir.unfinished_folder(one / "plan") as unfinished:
        workdir.write_text(unfinished / "items/a", "a")
        workdir.write_text(unfinished / "plan.json", "{}")
        workdir.commit_folder(unfinished, one / "plan")
    own = ["corpus.fetching/train-00000.bin", "corpus/unfinished/part", "run/profile/trace"]
    two = there("two")
    bucket.pull(two)
    shared = ["alone/profile/ledger.json", "config.gin", "plan/items/a", "plan/plan.json"]
    assert names(two) == shared
    workdir.write_text(two / "config.gin", "second")
    bucket.remove(two / "plan/plan.json")
    bucket.remove(two / "plan/items/a")
    assert names(there()) == sorted([*shared, *own])
    bucket.pull(one)
    assert (one / "config.gin").read_text() == "second" and not (one / "plan").exists()
    assert all((one / name).exists() for name in own)


def test_what_is_there_already_is_not_copied_again(there, monkeypatch):
    one = there()
    for name in ("a", "b"):
        workdir.write_text(one / name, "text")
    os.utime(one / "b")  # as where a kill came before its time was noted
    fetched = []
    monkeypatch.setattr(bucket, "unfinished_name", fetched.append)
    bucket.pull(one)
    assert not fetched and bucket.named_by_url(f"{one}/a is bad") == f"{STUDY}/a is bad"


def test_a_folder_is_seen_once_it_is_whole(there):
    one = there()
    (made := one.parent / "made").mkdir(parents=True)
    (made / "part").write_text("x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bucket, "publish", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            bucket.publish_folder(made, one / "plan")
    two = there("two")
    shared_files.touch(two / "plan/part")
    for folder in (two, two / "plan"):
        bucket.pull(folder)
    assert not (two / "plan").exists(), "it is not whole"
    there()
    bucket.publish_folder(made, one / "plan")
    there("two")
    bucket.pull(two)
    assert (two / "plan/part").read_text() == "x"
    with pytest.raises(FileExistsError, match="another process has made it"):
        bucket.publish_folder(made, two / "plan")


def test_the_next_upload_of_a_folder_removes_what_a_killed_one_left(there):
    one = there()
    for name in (".uploading", "items/of_another_config", "part", "leases/plan.0"):
        Object("bucket", f"mine/plan/{name}").write(b"left")
    bucket.remove_unfinished(one / "plan")
    assert objects() == ["plan/leases/plan.0"], "another process may hold it"
    Object("bucket", "mine/plan/leases/plan.0").delete()
    Object("bucket", "mine/plan/.uploading").write(b"")
    Object("bucket", "mine/plan/items/of_another_config").write(b"left")
    (made := one.parent / "made").mkdir(parents=True)
    (made / "part").write_text("x")
    bucket.publish_folder(made, one / "plan")
    assert objects() == ["plan/part"] and Object("bucket", "mine/plan/part").read() == b"x"
    bucket.remove_unfinished(one / "plan")
    assert objects() == ["plan/part"], "it is whole"


@pytest.mark.parametrize("names", [("a", "b"), ()], ids=["during", "after"])
def test_a_suspended_upload_of_a_folder_changes_nothing_of_the_next_one(there, monkeypatch, names):
    """The next one begins when the first has uploaded some files, or all of them."""
    one = there()
    first, second = (one.parent / name for name in ("first", "second"))
    for made in (first, second):
        made.mkdir(parents=True)
        for name in names:
            (made / name).write_text(made.name)
    write = Object.write

    def write_and_pause(self, content, generation=None):
        new = write(self, content, generation)
        monkeypatch.setattr(Object, "write", write)
        (second / "more").write_text("second")
        bucket.publish_folder(second, one / "plan")
        return new

    monkeypatch.setattr(Object, "write", write_and_pause)
    with pytest.raises(FileExistsError, match="another process"):
        bucket.publish_folder(first, one / "plan")
    assert objects() == sorted(f"plan/{name}" for name in (*names, "more"))
    assert {Object("bucket", f"mine/{name}").read() for name in objects()} == {b"second"}


def test_a_reply_that_is_lost_is_no_other_process(there, monkeypatch):
    one, upload = there(), Object.upload
    (made := one.parent / "made").mkdir(parents=True)
    (made / "part").write_text("x")

    def upload_twice(self, file, generation=None):
        upload(self, file, generation)
        return upload(self, file, generation)  # as the client does when no reply comes

    monkeypatch.setattr(Object, "upload", upload_twice)
    bucket.publish_folder(made, one / "plan")
    assert objects() == ["plan/part"]


def test_heartbeats_of_a_run_do_not_wait_for_the_bucket(there, monkeypatch, capsys):
    path, upload, answers = there() / "run/attempts.jsonl", Object.upload, threading.Event()
    monkeypatch.setattr(throughput, "HEARTBEAT_SECONDS", 0.0)
    waited = []

    def fail_late(self, file, generation=None):
        waited.append(answers.wait(30))
        raise OSError(5, "cannot be reached", str(self))

    attempts = Attempts(path, step=0)
    attempts.upload()
    monkeypatch.setattr(Object, "upload", fail_late)
    for step in (1, 2, 3):
        attempts.beat(step)
    answers.set()
    with pytest.raises(OSError, match="cannot be reached"):
        attempts.upload()  # a checkpoint relies on it
    attempts.beat(4)
    attempts.end()
    assert all(waited), "a step waited until the bucket answered"
    told = f"{STUDY}/run/attempts.jsonl: cannot be reached; the next upload includes these lines\n"
    assert capsys.readouterr().out == told, "once"
    monkeypatch.setattr(Object, "upload", upload)
    attempts.beat(5)
    attempts.upload()
    there("two")
    copy = bucket.local_path(STUDY) / "run/attempts.jsonl"
    bucket.pull_file(copy)
    assert [line["step"] for line in throughput.read_attempts(copy)] == [0, 1, 2, 3, 4, 4, 5]


def test_lines_that_are_not_uploaded_yet_are_kept(there):
    one = there()
    workdir.write_text(one / "run/metrics.jsonl", "1\n")
    with open(one / "run/metrics.jsonl", "a+b") as file:
        file.write(b"2\n")
        file.flush()
        bucket.pull(one)
        assert (one / "run/metrics.jsonl").read_text() == "1\n2\n"
        (one / "run/metrics.jsonl").unlink()  # the writer's file counts, not the path
        bucket.upload(one / "run/metrics.jsonl", file)
    two = there("two")
    bucket.pull(two)
    assert (two / "run/metrics.jsonl").read_text() == "1\n2\n"
    workdir.write_text(two / "run/metrics.jsonl", "1\n3\n4\n")
    there()
    bucket.pull(one)
    assert (one / "run/metrics.jsonl").read_text() == "1\n3\n4\n"


WRITER = """
import pathlib, sys
from ttoaa import bucket, workdir
path = bucket.local_path(sys.argv[1]) / "big"
for number in range(1000):
    workdir.write_bytes(path, bytes([number % 251]) * 8_000_000)
    print("written", flush=True)
"""


def test_a_kill_during_an_upload_leaves_the_old_or_the_new_file(there, tmp_path):
    environment = buckets.environment(tmp_path / "one")
    command = [sys.executable, "-c", WRITER, STUDY]
    for _ in range(2):
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            time.sleep(random.uniform(0, 0.5))
            writer.send_signal(signal.SIGKILL)
        one = there()
        bucket.pull(one)  # a restart brings the copy up to date
        content = (one / "big").read_bytes()
        assert content == bytes([content[0]]) * 8_000_000
        two = there("two")
        bucket.pull(two)
        assert (two / "big").read_bytes() == content


def test_of_writers_that_compete_one_wins(there):
    there()
    target = Object("bucket", "mine/lease")
    generation = 0
    for round_ in range(10):
        gate = threading.Barrier(4)

        def write(number, gate=gate, round_=round_, generation=generation):
            gate.wait()
            try:
                return target.write(f"{round_} {number}".encode(), generation)
            except FileExistsError:
                return 0

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            got = list(pool.map(write, range(4)))
        assert sum(map(bool, got)) == 1
        winner = next(number for number, won in enumerate(got) if won)
        assert target.read() == f"{round_} {winner}".encode()
        generation = got[winner]


def test_leases_of_two_machines(there):
    one = there() / "leases"
    with Leases(one, stale=600) as mine:
        assert mine.acquire("a") and mine.acquire("b")
        two = there("two") / "leases"
        with Leases(two, stale=600) as other:
            assert not other.acquire("a") and other.acquire("c")
            assert [x.name for x in other.of_others()] == ["a", "b"]
        there()
        assert [x.name for x in list_leases(one)] == ["a", "b"]
        mine.release("a")
        assert mine.holds("b") and not mine.holds("a")
    assert objects() == [] and names(one) == []


def test_a_lease_is_renewed_and_lost_to_another_machine(there, monkeypatch):
    one = there() / "leases"
    monkeypatch.setattr(locks, "_HEARTBEATS", 20_000)
    with Leases(one, stale=1000) as mine:
        mine.acquire("a")
        first = bucket.find(one / "a.0").look().generation
        end = time.monotonic() + 20
        while bucket.find(one / "a.0").look().generation == first and time.monotonic() < end:
            time.sleep(0.02)
        assert bucket.find(one / "a.0").look().generation != first and mine.holds("a")
        mine._beating.close()  # it stands still, and is thought dead
        monkeypatch.setattr(locks, "_heartbeat_age", lambda path: 1001.0)
        two = there("two") / "leases"
        with Leases(two, stale=1000) as other:
            assert other.acquire("a") and other.holds("a")
            there()
            assert not mine.holds("a")
            mine.release("a")
            there("two")
            assert other.holds("a")
        there()


def test_a_renewal_whose_reply_is_lost_or_that_is_late_leaves_no_lease(there, monkeypatch):
    one, write = there() / "leases", Object.write

    def write_twice(self, content, generation=None):
        write(self, content, generation)
        return write(self, content, generation)  # as the client does when no reply comes

    with Leases(one, stale=600) as mine:
        assert mine.acquire("a") and mine.acquire("b")
        with monkeypatch.context() as lossy:
            lossy.setattr(Object, "write", write_twice)
            shared_files.renew(one / "a.0")
        shared_files.renew(one / "a.0")
        assert mine.holds("a")

        def write_late(self, content, generation=None):
            monkeypatch.setattr(Object, "write", write)
            new = write(self, content, generation)
            mine.release("b")
            return new

        monkeypatch.setattr(Object, "write", write_late)
        shared_files.renew(one / "b.0")
        assert [name for name in objects() if "/b." in f"/{name}"] == []
    assert objects() == []


def test_a_killed_owner_on_this_machine_is_known_at_once(there, tmp_path):
    code = "import pathlib, sys, time; from ttoaa import bucket; from ttoaa.locks import Leases\n"
    code += f"held = Leases(bucket.local_path({STUDY!r}) / 'leases').__enter__()\n"
    code += "print(held.acquire('work'), flush=True); time.sleep(60)"
    environment = buckets.environment(tmp_path / "one")
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as owner:
        assert owner.stdout.readline() == b"True\n"
        two = there("two") / "leases"
        with Leases(two) as mine:
            owner.send_signal(signal.SIGKILL)
            owner.wait()
            assert not mine.acquire("work"), "from another machine it may live"
        one = there() / "leases"
        with Leases(one) as mine:
            assert mine.acquire("work") and mine.holds("work")


def test_a_checkpoint_that_another_machine_reads_is_not_deleted(there):
    one = there() / "run/checkpoints"
    for name in ("5/meta/metadata", "5/commit_success.txt"):
        bucket.find(one / name).write(b"x")
    two = there("two") / "run/checkpoints"
    with pin(two, 5):
        there()
        with deletion_mark(one, 5) as free:
            assert not free
        there("two")
    there()
    with deletion_mark(one, 5) as free:
        assert free
        bucket.delete_folder(one / "5", first="commit_success.txt")
    with pytest.raises(CheckpointGone), pin(one, 5):
        pass
    assert objects() == []


def test_a_damaged_checkpoint_is_set_aside(there):
    checkpoints = there() / "run/checkpoints"
    for name in ("5/meta/metadata", "5/commit_success.txt"):
        bucket.find(checkpoints / name).write(name.encode())
    bucket.move_folder(checkpoints / "5", checkpoints / "damaged-5")
    assert shared_files.names(checkpoints) == ["damaged-5"]
    assert shared_files.read(checkpoints / "damaged-5/meta/metadata") == b"5/meta/metadata"


def test_objects_that_stand_for_folders_are_no_files(there):
    one = there()
    for name in ("mine/", "mine/tables/", "mine/tables/run/", "mine/run/"):
        Object("bucket", name).write(b"")
    workdir.write_text(one / "config.gin", "x")
    two = there("two")
    bucket.pull(two)
    assert names(two) == ["config.gin"]


@pytest.mark.parametrize(
    ("folder", "problem"),
    [
        ("s3://bucket/study", "a study is in a folder or at gs://"),
        ("gs://bucket", "must be gs://BUCKET/FOLDER"),
        ("gs://bucket/../x", "must be gs://BUCKET/FOLDER"),
    ],
)
def test_a_folder_that_cannot_be_a_study(folder, problem):
    with pytest.raises(ValueError, match=problem):
        bucket.expand(folder)


def test_a_local_folder_has_no_object(tmp_path):
    assert bucket.expand(str(tmp_path)) == tmp_path and bucket.find(tmp_path / "x") is None
    assert bucket.url_of(tmp_path) == pathlib.Path(tmp_path).resolve()


def test_a_bucket_that_is_not_there_is_named(there):
    there()
    with pytest.raises(OSError, match=r"no such object or bucket.*gs://no-such-bucket/study"):
        bucket.expand("gs://no-such-bucket/study")
