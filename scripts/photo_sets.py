"""Sets of photographs for experiments of scripts/run_results.py, made of Flickr30k Entities.

The source is a folder with ``train.jsonl``, ``val.jsonl``, ``test.jsonl`` (the project's own JSONL, an object per line) and
``images/``; for phrases of nothing also ``flickr30k_entities_annotations.tar.xz``, the publisher's ``flickr/Sentences``,
``flickr/Annotations`` and lists. What is random is a function of the photographs' ids. A set is whole where ``made.json`` is there.
"""

import hashlib
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rec.data.schema import BadRecord
from rec.data.sources.flickr30k import open_flickr30k
from rec.data.sources.tabular import records
from rec.errors import InputError
from rec.files import unpack, write_json, write_json_lines

SPLITS = ("train", "val", "test")
PERCENT = (5, 10, 25, 100)  # of the training photographs; half of them are ``halves``
TRUE_OBJECTS, LABELLED_PHOTOGRAPHS, OWN_OBJECTS = 200, 2000, (100, 300, 500, 1000)
ABSENT, TRIES = 2, 60  # phrases of nothing for each photograph; phrases looked at to find them
ARCHIVE = "flickr30k_entities_annotations.tar.xz"
PHRASE = re.compile(r"\[/EN#\d+/\S+ ([^\]]*)\]")


def words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Nouns that may be said of one thing, or of a thing and of what it is a part or a kind of: a phrase of one of them is
# taken for a photograph only where none of its groups occurs in the captions. What captions seldom mention though it is
# there (clothes, parts of bodies, ground, sky, walls, trees, ...) is in no group, and so is never asked for.
_PEOPLE = "person adult someone somebody crowd group team couple family player people worker performer audience spectator rider"
GROUPS = tuple(
    words_of(group)
    for group in f"""
dog puppy greyhound poodle retriever terrier shepherd collie beagle pitbull boxer lab labrador dalmatian husky corgi
    hound pup canine animal pet mutt;
cat kitten feline animal pet;
horse pony stallion mare jockey racehorse colt bronco rodeo cowboy polo carriage equestrian animal;
cow bull calf cattle ox rodeo livestock animal;
sheep lamb goat ram livestock herd animal;
bird duck goose geese swan pigeon seagull gull chicken parrot eagle hawk owl flock crane heron pelican rooster animal;
camel animal;
elephant animal;
bear animal;
tiger lion animal;
deer elk animal;
fish shark animal;
bike bicycle cyclist biker bicyclist bmx cycle tricycle unicycle wheel rider ride cycling biking pedal vehicle;
motorcycle motorbike motorcyclist biker dirtbike motocross atv scooter quad bike vehicle rider moped wheel;
car truck jeep suv van taxi automobile vehicle traffic firetruck racecar sedan race racetrack driver street road
    parking;
bus vehicle traffic tram trolley street;
train locomotive railway subway track tram trolley station;
airplane plane jet helicopter aircraft airport parachute glider;
boat canoe kayak raft rowboat sailboat ship ferry kayaker sail rowing yacht paddle oar vessel dock marina speedboat
    jetski water lake river ocean sea harbor;
surfboard surfer surf surfing wave board bodyboard boogie paddleboard ocean sea;
skateboard skateboarder skateboarding skater board longboard skating skate ramp trick;
snowboard snowboarder snowboarding board ski skier skiing slope snow;
sled sledding toboggan sledge tube innertube snow;
ski skier skiing pole slope snow snowboarder;
guitar guitarist bass instrument musician band banjo ukulele music concert;
drum drummer instrument musician band music percussion concert;
violin fiddle cello instrument musician music orchestra band;
trumpet saxophone tuba horn flute instrument musician band music parade bagpipe;
piano keyboard organ instrument musician band music;
basketball hoop basket ball player game court dunk layup;
football quarterback ball player game helmet tackle touchdown;
soccer goalie ball player game goal;
baseball bat pitcher catcher batter umpire ball player game base glove mitt softball;
volleyball ball player game net;
tennis racket racquet ball player game net court;
frisbee disc disk toy;
umbrella parasol shade;
tent camp camping canopy campsite awning;
fountain sprinkler water hose;
trampoline jump bounce bouncing;
swing swinging playground rope;
slide sliding playground waterslide chute;
kite string sky;
balloon party;
bubble soap blowing;
campfire fire bonfire flame smoke barbecue grill firework sparkler;
cake cupcake pie birthday dessert food candle;
bride groom wedding bridal married tuxedo veil;
stroller carriage buggy pram baby;
wheelchair disabled;
sword knife weapon fencing knight costume;
gun rifle pistol weapon paintball soldier shooting;
statue sculpture monument fountain memorial;
tractor plow farm bulldozer vehicle machine excavator;
camera photographer photo picture video tripod film camcorder;
laptop computer screen keyboard desk;
newspaper paper magazine book reading;
book magazine reading paper library;
microphone singer singing mic karaoke stage band speaker concert;
bed mattress bedroom bunk pillow;
couch sofa loveseat armchair futon chair;
snowman snow;
sandcastle sand;
waterfall water cliff;
clown costume makeup circus;
santa christmas costume;
baby infant newborn toddler child kid boy girl {_PEOPLE};
boy kid child toddler baby male teenager teen youth infant guy man son brother sibling student {_PEOPLE};
girl kid child toddler baby female teenager teen youth infant lady woman daughter sister sibling student cheerleader
    {_PEOPLE};
woman lady female girl mother bride mom grandmother wife waitress daughter sister teenager teen friend {_PEOPLE};
man guy male gentleman boy father groom dad grandfather husband soldier policeman officer fireman cowboy waiter son
    teenager teen friend {_PEOPLE}
""".split(";")
)
# Names of kinds and of company: heard in captions, but no phrase to ask for.
_NOT_ASKED = words_of(
    """
    animal pet vehicle instrument music player game band ball board wheel water snow sky pole ride race court net
    goal base shade rope string paper party smoke food sand street road traffic ocean sea river lake picture photo
    video stage trick dock screen film chair cliff canopy costume makeup reading shooting singing skating surfing
    track tube basket bass bat glove helmet horn organ station stick track flock herd livestock sail pillow desk
    swinging cycling biking bouncing sliding fencing rowing surfing skiing skateboarding longboard camping skating
    snowboarding jump bounce surf skate cycle birthday wedding bridal soccer polo concert toy disabled married
    midair parking traffic percussion barbecue tackle layup dunk touchdown racing rodeo friend
    """
) | words_of(_PEOPLE)
_HEAD_ENDS = words_of(
    """
    in on with of at from for that who which wearing holding near by behind under over and or to into onto against
    beside next while as like during through across along around without
    """
)
_VAGUE = words_of(
    """
    another other others each his her their its it they them he she this that these those one ones some
    """
)
_IRREGULAR = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "people": "person",
    "geese": "goose",
    "calves": "calf",
}


def make(name: str, source: Path, folder: Path) -> None:
    """Makes the set ``name`` in ``folder``, if it is not there yet.

    Raises:
        InputError: the source lacks a file.
    """
    if (folder / "made.json").is_file():
        return
    for needed in [*(f"{split}.jsonl" for split in SPLITS), "images", *([ARCHIVE] if name == "absent" else [])]:
        if not (source / needed).exists():
            raise InputError(
                f"{source} has no {needed}: --photos names a folder of photographs of Flickr30k Entities with "
                f"train.jsonl, val.jsonl, test.jsonl, images/ and, for phrases of nothing, {ARCHIVE}"
            )
    made = MAKERS[name](source.absolute(), folder)
    write_json(folder / "made.json", made)
    print(f"{folder}: " + ", ".join(f"{count} {what}" for what, count in made.items()), flush=True)


def halves(source: Path, folder: Path) -> dict[str, int]:
    """``half``: the objects of one half of the training photographs, for the teacher; of the other half ``few``, 200 objects, and
    ``pairs.jsonl``, 2,000 further photographs with their phrases, without a box. ``val`` and ``test`` are the source's.
    """
    of_image, order = _by_photograph(source)
    half = len(order) // 2
    few = [line for image in order[half:] for line in of_image[image]][:TRUE_OBJECTS]
    seen = {line["image_id"] for line in few}
    asked = [image for image in order[half:] if image not in seen][:LABELLED_PHOTOGRAPHS]
    for name, lines in (("half", [line for image in order[:half] for line in of_image[image]]), ("few", few)):
        _write_set(source, folder / name, lines)
    phrases = {image: list(dict.fromkeys(p for line in of_image[image] for p in line["phrase"])) for image in asked}
    pairs = [
        {"image": str(source / "images" / of_image[image][0]["image"]), "phrase": phrases[image]} for image in asked
    ]
    write_json_lines(folder / "pairs.jsonl", pairs)
    counts = {"photographs of the teacher": half, "true objects": len(few), "photographs to label": len(asked)}
    return counts | {"phrases to label": sum(map(len, phrases.values()))}


def own(source: Path, folder: Path) -> dict[str, int]:
    """``100``, ``300``, ``500`` and ``1000`` objects of the half of the training photographs that the teacher does not see."""
    of_image, order = _by_photograph(source)
    others = [line for image in order[len(order) // 2 :] for line in of_image[image]]
    for count in OWN_OBJECTS:
        _write_set(source, folder / str(count), others[:count])
    return {
        f"photographs with {count} objects": len({line["image_id"] for line in others[:count]}) for count in OWN_OBJECTS
    }


def shares(source: Path, folder: Path) -> dict[str, int]:
    """``5``, ``10``, ``25``, ``100``: the objects of so many per cent of the training photographs, each with all before."""
    of_image, order = _by_photograph(source)
    counts = {}
    for percent in PERCENT:
        images = order[: round(len(order) * percent / 100)]
        lines = [line for image in images for line in of_image[image]]
        _write_set(source, folder / str(percent), lines)
        counts[f"objects on {percent} % of the photographs"] = len(lines)
    return counts


def _by_photograph(source: Path) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """The training split's lines of each photograph, and the photographs in an order that their ids alone decide."""
    of_image = dict[str, list[dict[str, Any]]]()
    for line in _lines(source / "train.jsonl"):
        of_image.setdefault(line["image_id"], []).append(line)
    return of_image, sorted(of_image, key=lambda image: hashlib.sha256(image.encode()).digest())


def _write_set(source: Path, folder: Path, lines: list[dict[str, Any]]) -> None:
    """``lines`` to train on; ``val`` and ``test`` are the source's."""
    write_json_lines(folder / "train.jsonl", lines)
    for split in SPLITS[1:]:
        write_json_lines(folder / f"{split}.jsonl", _lines(source / f"{split}.jsonl"))


def absent(source: Path, folder: Path) -> dict[str, int]:
    """``train.jsonl``, ``val.jsonl``, ``test.jsonl``: every object with its boxes apart, and for each photograph :data:`ABSENT`
    phrases of other photographs of its split that name nothing in it (``boxes: []``), as far as the captions tell.
    """
    from PIL import Image

    publisher, counts = folder / "publisher", dict[str, int]()
    shutil.rmtree(publisher, ignore_errors=True)
    with tarfile.open(source / ARCHIVE) as archive:
        unpack(archive, publisher)
    opened = open_flickr30k(publisher / "flickr", "flickr", str(source / "images"), "separate")
    for split in SPLITS:
        lines, sizes, bad = [], dict[str, tuple[int, int]](), 0
        for row in opened.read(split):
            if isinstance(row, BadRecord):
                bad += 1
                continue
            image = row["image_id"]
            if image not in sizes:
                with Image.open(row["image"]) as picture:
                    sizes[image] = picture.size
            x, y = (stored / said for stored, said in zip(sizes[image], (row["width"], row["height"]), strict=True))
            boxes = [[round(v * s, 2) for v, s in zip(box, (x, y, x, y), strict=True)] for box in row["boxes"]]
            line = {"image": f"{image}.jpg", "image_id": image, "ref_id": row["ref_id"], "phrase": row["sentences"]}
            lines.append(line | {"boxes": boxes, "category": row["category"], "split": split})
        captions = {i: (publisher / "flickr" / "Sentences" / f"{i}.txt").read_text(encoding="utf-8") for i in sizes}
        said = [phrase for line in lines for phrase in line["phrase"]]
        for image, phrases in strange_phrases(captions, said).items():
            line = {"image": f"{image}.jpg", "image_id": image, "boxes": [], "split": split}
            lines += [line | {"ref_id": f"{image}-absent-{n}", "phrase": [p]} for n, p in enumerate(phrases)]
        write_json_lines(folder / f"{split}.jsonl", lines)
        none = sum(not line["boxes"] for line in lines)
        several = sum(len(line["boxes"]) > 1 for line in lines)
        counts |= {f"bad records of {split}, left out": bad} if bad else {}
        counts |= {f"rows of {split}": len(lines), f"of nothing in {split}": none, f"of several in {split}": several}
    shutil.rmtree(publisher)
    return counts


MAKERS: dict[str, Callable[[Path, Path], dict[str, int]]] = {
    "halves": halves, "own": own, "shares": shares, "absent": absent,
}  # fmt: skip


def strange_phrases(captions: dict[str, str], phrases: Iterable[str]) -> dict[str, list[str]]:
    """For each photograph phrases whose head noun, with all that may be said in its place, is in none of its captions.

    Args:
        captions: image id to the publisher's text of its five captions.
        phrases: those that name an object in some photograph, each as often as it is said: a model that learns which nouns
            are rare, or never have a box, must not know from that what is absent.
    """
    pool = [(phrase, head) for phrase in phrases if (head := asked(phrase))]
    families = {head: family(head) for _, head in pool}
    found = dict[str, list[str]]()
    for image, text in captions.items():
        taken = set(map(singular, words(PHRASE.sub(r"\1", text))))
        found[image] = []
        for number in range(TRIES):
            phrase, head = pool[_draw(image, number, len(pool))] if pool else ("", "")
            if len(found[image]) < ABSENT and pool and not taken & families[head]:
                found[image].append(phrase)
                taken |= families[head]  # the next phrase is of another kind
    return found


def asked(phrase: str) -> str | None:
    """The head noun of a phrase that may be asked for in another photograph; None of any other phrase."""
    listed = words(phrase)
    if not listed or _VAGUE & set(listed):
        return None
    end = next((number for number, word in enumerate(listed) if number and word in _HEAD_ENDS), len(listed))
    head = singular(listed[end - 1])
    return head if head not in _NOT_ASKED and any(head in group for group in GROUPS) else None


def family(head: str) -> frozenset[str]:
    """The noun with all that may be said of the same thing."""
    return frozenset().union(*(group for group in GROUPS if head in group))


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower().replace("'s", ""))


def singular(word: str) -> str:
    """A noun's singular, roughly."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("men"):
        return word[:-2] + "an"
    if len(word) > 3 and word.endswith("ies"):
        return word[:-3] + "y"
    if re.search(r"(ch|sh|x|ss)es$", word):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us")) else word


def _draw(image: str, number: int, count: int) -> int:
    """A number below ``count``, the same for the same photograph."""
    return int.from_bytes(hashlib.sha256(f"{image}/{number}".encode()).digest()[:8], "big") % count


def _lines(file: Path) -> list[dict[str, Any]]:
    """The file's records.

    Raises:
        InputError: a line that is none; names file and fault.
    """
    found = []
    for number, row in enumerate(records(file)):
        if isinstance(row, BadRecord):
            raise InputError(f"{file}, record {number}: {row}; mend it first")
        found.append(row)
    return found
