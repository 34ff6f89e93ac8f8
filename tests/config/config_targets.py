"""Things for configs to build."""

import enum
from collections import namedtuple
from dataclasses import dataclass, field

Size = namedtuple("Size", "height width")


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Part:
    def __init__(self, value=None, *, name="part"):
        self.value, self.name = value, name

    def __call__(self, number):
        return (self.value, number)

    @classmethod
    def named(cls, name):
        return cls(name=name)


class Head:
    built = 0

    def __init__(self, in_channels, strides=(32,), act="silu"):
        type(self).built += 1
        self.in_channels, self.strides, self.act = in_channels, strides, act


@dataclass
class Shape:
    channels: int | None = None
    width: int | None = None
    area: int = field(init=False, default=0)


def keep(**arguments):
    return arguments


def first(a, b=2, /, c=3):
    return (a, b, c)


def fails(reason="no reason"):
    raise ValueError(reason)


def needs_two(a, b):
    return a + b


not_callable = 5
