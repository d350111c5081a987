"""The released batch JSON: what is asked, of which region, under which name; and the command that answers it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shared_data
from PIL import Image
from small import make_model

from diception.annotations import encode_rle
from diception.cli import main
from diception.cli.answer_log import AnswerLog
from diception.inference import Pipeline, Request
from diception.jobs import Job, read_jobs
from diception.tasks import known_tasks


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(make_model(), known_tasks())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images, and a target with three regions, as SA-1B and as COCO write it."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(tmp_path / f"{name}.png")
    masks = np.zeros((3, 40, 60), bool)
    for index in range(3):
        masks[index, 10:20, 20 * index : 20 * index + 12] = True
    rles = [{"size": [40, 60], "counts": rle["counts"].decode()} for rle in encode_rle(masks)]
    regions = [{"segmentation": rle, "prompt": name} for rle, name in zip(rles, ("cat", "dog", "cow"), strict=True)]
    polygon = {"segmentation": [[40, 10, 52, 10, 52, 20, 40, 20]], "prompt": "cow"}
    (tmp_path / "sa1b.json").write_text(json.dumps({"annotations": regions}))
    (tmp_path / "coco.json").write_text(json.dumps([polygon]))
    return tmp_path


def write(root: Path, jobs: Any) -> Path:
    path = root / "jobs.json"
    path.write_text(jobs if isinstance(jobs, str) else json.dumps(jobs))
    return path


SEGMENT = {"input": "a.png", "caption": "[[image2segmentation]]", "target": {"path": "sa1b.json"}}


def test_every_kind_of_entry_becomes_a_question(root: Path, pipeline: Pipeline) -> None:
    entries = [
        {"input": "a.png", "caption": "[[image2depth]]"},
        {"input": "b.png", "caption": "[[image2semantic]] traffic light"},
        {"input": "b.png", "caption": "[[image2semantic]]", "target": {"path": "coco.json"}},
        SEGMENT,
        {"input": "a.png", "caption": "[[image2segmentation]]", "points": [[0.25, 0.75]]},
    ]
    jobs = read_jobs(write(root, entries), root, pipeline)
    names = ["a.depth", "b.semantic_segmentation-0", "b.semantic_segmentation-1"]
    assert [job.name for job in jobs] == [*names, "a.point_segmentation-0", "a.point_segmentation-1"]
    assert [job.request.category for job in jobs] == [None, "traffic light", "cow", None, None]
    assert jobs[4].request.points == [(0.75, 0.25)]
    points = np.array(jobs[3].request.points)
    assert points.shape == (5, 2) and (points[:, 1] > 0.25).all() and (points[:, 1] < 0.5).all()
    assert np.ptp(points[:, 0]) < 12 / 60  # all in one region


def test_the_seed_chooses_the_region_and_every_region_can_be_asked(root: Path, pipeline: Pipeline) -> None:
    path = write(root, [SEGMENT] * 8)
    chosen = [[job.request.points for job in read_jobs(path, root, pipeline, seed)] for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    columns = {int(points[0][0] * 3) for points in chosen[0] if points}
    assert len(columns) > 1, "always the same region"
    every = read_jobs(write(root, [SEGMENT]), root, pipeline, every_region=True)
    assert [int(job.request.points[0][0] * 3) for job in every if job.request.points] == [0, 1, 2]


@pytest.mark.parametrize(
    ("jobs", "told"),
    [
        ("{", "not readable as JSON"),
        ([], "no list of jobs"),
        (["a.png"], "job 0: is a str"),
        ([{"input": "a.png"}], "job 0: has no 'caption'"),
        ([{"input": "none.png", "caption": "[[image2depth]]"}], "job 0: no image"),
        ([{"input": "a.png", "caption": "[[image2nothing]]"}], r"no token that this model knows: .*image2depth"),
        ([{"input": "a.png", "caption": "[[image2segmentation]]"}], "needs points or a category, or a target"),
        ([SEGMENT | {"target": {"path": "none.json"}}], "no file"),
        ([SEGMENT | {"points": [[0.5, 1.5]]}], "out of range"),
    ],
)
def test_what_cannot_be_asked_is_named(root: Path, pipeline: Pipeline, jobs: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_jobs(write(root, jobs), root, pipeline)


def test_the_command_answers_a_batch_and_continues_it(root: Path, capsys: pytest.CaptureFixture) -> None:
    path, out = write(root, [SEGMENT, {"input": "b.png", "caption": "[[image2depth]]"}]), root / "out"
    command = ["predict", "--model", "tiny", "--batch", str(path), "--data-root", str(root), "--out", str(out)]
    assert main([*command, "--save-npy", "--batch-size", "2"]) == 0
    assert np.load(out / "b.depth.npy").shape == (40, 60)
    assert np.load(out / "a.point_segmentation.npy").dtype == bool
    before = (out / "b.depth.npy").stat().st_mtime_ns
    log = out / "answers.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[1:]) + lines[0][:20])  # killed while it wrote the line
    assert main([*command, "--save-npy", "--resume"]) == 0
    assert "1 predictions" in capsys.readouterr().out and (out / "b.depth.npy").stat().st_mtime_ns == before
    (out / "b.depth.rgb.png").unlink()
    assert main([*command, "--save-npy", "--resume"]) == 0
    assert "1 predictions" in capsys.readouterr().out  # what was deleted is made again
    os.utime(root / "b.png", ns=(0, 0))
    assert main([*command, "--save-npy", "--resume"]) == 0
    assert "1 predictions" in capsys.readouterr().out  # another picture may lie there now
    assert main([*command, "--save-npy", "--resume", "--steps", "2"]) == 0
    assert "2 predictions" in capsys.readouterr().out  # other steps are another question
    assert main([*command, "--image", str(root / "a.png")]) == 2
    assert "no --image with --batch" in capsys.readouterr().err


def test_a_broken_image_is_left_out_and_named_at_the_end(root: Path, capsys: pytest.CaptureFixture) -> None:
    whole = (root / "a.png").read_bytes()
    (root / "cut.png").write_bytes(whole[: len(whole) // 2])
    jobs = [{"input": f"{name}.png", "caption": "[[image2depth]]"} for name in ("cut", "a", "b")]
    command = ["predict", "--model", "tiny", "--batch", str(write(root, jobs)), "--data-root", str(root)]
    assert main([*command, "--out", str(root / "out")]) == 2
    assert "1 of 3 images cannot be read" in (told := capsys.readouterr().err) and "cut.depth" in told
    assert {path.name for path in (root / "out").glob("*.npy")} == {"a.depth.depth.npy", "b.depth.depth.npy"}


def test_empty_regions_are_passed_over(root: Path, pipeline: Pipeline) -> None:
    content = json.loads((root / "sa1b.json").read_bytes())
    empty = encode_rle(np.zeros((1, 40, 60), bool))[0]["counts"].decode()
    for region in content["annotations"][:2]:
        region["segmentation"]["counts"] = empty
    (root / "sa1b.json").write_text(json.dumps(content))
    for every_region in (False, True):
        [job] = read_jobs(write(root, [SEGMENT]), root, pipeline, every_region=every_region)
        assert job.request.points and job.request.points[0][0] > 0.6
    content["annotations"] = content["annotations"][:2]
    (root / "sa1b.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="all regions of the target are empty"):
        read_jobs(write(root, [SEGMENT]), root, pipeline)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--prompt", "[[image2depth]] person"], "takes no category"),
        (["--prompt", "[[image2semantic]] person", "--category", "dog"], "give one"),
        (["--task", "depth", "--go-through-all-seg-labels"], "is for --batch"),
        (["--task", "depth", "--size", "64", "64", "--keep-aspect"], "choose one"),
    ],
)
def test_contradictions_are_refused(root: Path, capsys: pytest.CaptureFixture, options: list[str], told: str) -> None:
    image = ["--image", str(root / "a.png")]
    assert main(["predict", "--model", "tiny", *image, *options, "--out", str(root / "out")]) == 2
    assert told in capsys.readouterr().err and not (root / "out").exists()


def test_a_prompt_is_the_same_as_a_task(root: Path) -> None:
    command = ["predict", "--model", "tiny", "--image", str(root / "a.png"), "--save-npy"]
    ways = {
        "task": ["--task", "semantic_segmentation", "--category", "person", "--steps", "2"],
        "prompt": ["--prompt", "[[image2semantic]] person", "--num-inference-steps", "2"],
    }
    for name, options in ways.items():
        assert main([*command, *options, "--out", str(root / name)]) == 0
    files = [sorted((root / name).iterdir()) for name in ways]
    assert [f.name for f in files[0]] == [f.name for f in files[1]] and len(files[0]) == 5
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True))


def test_a_real_target_gives_points_inside_its_regions(pipeline: Pipeline, tmp_path: Path) -> None:
    folder = shared_data("sa1b")
    image, target = (f"sa_525837.{end}" for end in ("jpg", "json"))
    entry = {"input": image, "caption": "[[image2segmentation]]", "target": {"path": target}}
    jobs = read_jobs(write(tmp_path, [entry]), folder, pipeline, every_region=True)
    assert len(jobs) == len(json.loads((folder / target).read_bytes())["annotations"])


def test_names_and_files_that_are_odd_are_answered_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    names = [b"caf\xe9.png", b"tab\t.png", "line\u2028.png".encode()]
    images = [os.fsdecode(os.fsencode(str(tmp_path)) + b"/" + name) for name in names]
    for image in images:
        Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(image)
    command = ["predict", "--model", "tiny", "--task", "depth", "--image", *images, "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert main([*command, "--resume"]) == 0
    assert "0 predictions" in capsys.readouterr().out
    (tmp_path / "out" / "tab\t.depth.depth.npy").unlink()
    assert main([*command, "--resume"]) == 0
    assert "1 predictions" in capsys.readouterr().out


def test_what_is_being_overwritten_is_no_answer(tmp_path: Path) -> None:
    job = Job("a.depth", Request("a.png", "depth"))
    log = AnswerLog(tmp_path, {"steps": 1})
    log.add(job, [])
    assert AnswerLog(tmp_path, {"steps": 1}).holds(job)
    AnswerLog(tmp_path, {"steps": 1}).forget([job])
    assert not AnswerLog(tmp_path, {"steps": 1}).holds(job)


def test_answers_that_would_share_a_file_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    images = [str(tmp_path / name) for name in ("photo.png", "photo.normal.png")]
    for image in images:
        Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(image)
    command = ["predict", "--model", "tiny", "--task", "normal", "--image", *images, "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "would replace each other" in capsys.readouterr().err and not (tmp_path / "out").exists()
