"""Tasks by name. One file per task; nothing outside a task's file asks which task it is."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from diception.tasks.base import Evaluator, Target, Task
from diception.tasks.depth import Depth
from diception.tasks.entity_segmentation import EntitySegmentation
from diception.tasks.foreground import Foreground
from diception.tasks.image import ImageTask
from diception.tasks.label_map import LabelMapTask
from diception.tasks.normal import Normal
from diception.tasks.point_segmentation import PointSegmentation
from diception.tasks.pose import Pose
from diception.tasks.semantic_segmentation import SemanticSegmentation

__all__ = [
    "TASK_TYPES",
    "Evaluator",
    "Target",
    "Task",
    "get_task",
    "known_tasks",
    "register",
    "released_tasks",
    "task_for_kind",
    "task_from_dict",
]

_TYPES: tuple[type[Task], ...] = (
    Depth,
    Normal,
    Pose,
    PointSegmentation,
    SemanticSegmentation,
    EntitySegmentation,
    Foreground,
    LabelMapTask,
    ImageTask,
)
TASK_TYPES: dict[str, type[Task]] = {one.type_name: one for one in _TYPES}
FEW_SHOT_TYPES: dict[str, type[Task]] = {
    one.kind: one for one in (Foreground, LabelMapTask, EntitySegmentation, Depth, Normal, Pose, ImageTask)
}
"""Kind of annotation to the task that a folder of such annotations teaches."""

_registered: dict[str, Task] = {}


def register(task: Task) -> Task:
    """Makes a task known by name; a ValueError refuses a name or token that is taken."""
    for known in _registered.values():
        if task.name == known.name or task.token == known.token:
            raise ValueError(
                f"task {task.name!r} with token {task.token!r} collides with {known.name!r} {known.token!r}"
            )
    _registered[task.name] = task
    return task


def known_tasks() -> list[Task]:
    """All registered tasks."""
    return list(_registered.values())


def released_tasks() -> list[Task]:
    """The tasks that the released weights know, as they were trained."""
    known = [task for task in known_tasks() if task.released_encoding]
    return [dataclasses.replace(task, encoding=task.released_encoding) for task in known]


def get_task(name: str) -> Task:
    """The registered task of this name; a ValueError lists the known ones."""
    if name not in _registered:
        raise ValueError(f"unknown task {name!r}; known: {', '.join(sorted(_registered))}")
    return _registered[name]


def task_from_dict(values: dict[str, Any]) -> Task:
    """Builds a task from what `Task.as_dict` gives.

    Raises:
        ValueError: unknown type, or a field that the type lacks.
    """
    fields = dict(values)
    kind = fields.pop("type", None)
    if kind not in TASK_TYPES:
        raise ValueError(f"unknown type of task {kind!r}; known: {', '.join(sorted(TASK_TYPES))}")
    known = {f.name for f in dataclasses.fields(TASK_TYPES[kind])}
    if unknown := sorted(set(fields) - known):
        raise ValueError(f"task type {kind!r} has no field {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    return TASK_TYPES[kind](**fields)


def task_for_kind(kind: str, name: str, **fields: Any) -> Task:
    """A new task that is learned from annotations of this kind; its token is `[[image2<name>]]`.

    `fields`: more of the task's own, such as the `labels` of a label map.

    Raises:
        ValueError: unknown kind, a name that is no token, or one of a registered task.
    """
    if kind not in FEW_SHOT_TYPES:
        raise ValueError(f"unknown kind of targets {kind!r}; known: {', '.join(FEW_SHOT_TYPES)}")
    if not re.fullmatch("[a-z0-9_]+", name):
        raise ValueError(f"{name!r} is no name of a task; allowed: lower-case letters, digits, _")
    token = f"[[image2{name}]]"
    if name in _registered or any(token == known.token for known in _registered.values()):
        raise ValueError(f"{name!r} is the name of a task that the model has; choose another for the new one")
    return FEW_SHOT_TYPES[kind](name=name, token=token, **fields)


register(Depth(name="depth", token="[[image2depth]]"))
register(Normal(name="normal", token="[[image2normal]]"))
register(Pose(name="pose", token="[[image2pose]]"))
register(PointSegmentation(name="point_segmentation", token="[[image2segmentation]]"))
register(SemanticSegmentation(name="semantic_segmentation", token="[[image2semantic]]"))
register(EntitySegmentation(name="entity_segmentation", token="[[image2entity]]"))
register(Foreground(name="foreground", token="[[image2foreground]]"))
