"""Small data sets of drawn shapes, laid out as the real ones are when they have been downloaded."""

import base64
import json
from pathlib import Path

import numpy as np

from tests.support.shapes import COLORS, SHAPES, draw

NAMES = dict(zip((*COLORS, *SHAPES), ("红", "绿", "蓝", "白", "圆", "方", "线", "叉")))
THINGS = [(color, shape) for color in COLORS for shape in SHAPES]


def drawn(seed: int) -> list[tuple[bytes, tuple[str, str]]]:
    """(a picture, its color and shape) of all 16 things."""
    rng = np.random.default_rng(seed)
    return [(draw(*thing, rng), thing) for thing in THINGS]


def english(thing: tuple[str, str]) -> list[str]:
    return ["a {} {}".format(*thing), "the {} {}".format(*thing)]


def chinese(thing: tuple[str, str]) -> list[str]:
    color, shape = (NAMES[word] for word in thing)
    return [f"一个{color}色的{shape}", f"{shape}是{color}的"]


def words() -> list[str]:
    """A vocabulary of all that is said here."""
    specials = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
    return [*specials, "a", "the", *COLORS, *SHAPES, *"一个色的是", *NAMES.values()]


def chinese_clip(folder: Path, muge: bool = False) -> None:
    """{train,valid,test}_imgs.tsv and _texts.jsonl; or MUGE's own, whose test queries tell nothing.

    A query of MUGE is right for two pictures, the things of one colour next to each other.
    """
    folder.mkdir(parents=True)
    keys = ("query_id", "query_text", "item_ids") if muge else ("text_id", "text", "image_ids")
    for seed, split in enumerate(("train", "valid", "test")):
        pictures = drawn(seed)
        first = 1000 * (seed + 1)
        start = f"MR_{split}" if muge else split
        with open(folder / f"{start}_imgs.tsv", "w") as file:
            for number, (picture, _) in enumerate(pictures):
                file.write(f"{first + number}\t{base64.b64encode(picture).decode()}\n")
        lines = []
        for number, (_, thing) in enumerate(pictures):
            for text in chinese(thing)[: 1 if muge else 2]:
                right = [first + number, first + (number ^ 1)][: 2 if muge else 1]
                line = dict(zip(keys, (first + 50 + len(lines), text, right)))
                if muge and split == "test":
                    del line["item_ids"]
                lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        name = "queries" if muge else "texts"
        (folder / f"{start}_{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def flickr30k_cn(folder: Path) -> None:
    """The authors' train set: words apart, and flickr30k-images beside it."""
    name = "flickr30kzhbbosontrain"
    texts = folder / name / "TextData" / f"seg.{name}.caption.txt"
    texts.parent.mkdir(parents=True)
    (folder / "flickr30k-images").mkdir()
    lines = []
    for number, (picture, thing) in enumerate(drawn(0)):
        (folder / "flickr30k-images" / f"{number}77.jpg").write_bytes(picture)
        lines += [f"{number}77#zhb#{n} {' '.join(t)}\n" for n, t in enumerate(chinese(thing))]
    texts.write_text("".join(lines), encoding="utf-8")


def _coco_pictures(root: Path) -> dict[str, list[tuple[str, tuple[str, str]]]]:
    """COCO's two folders; split -> (id, thing) of its pictures, which are in both."""
    splits = {}
    for seed, split in enumerate(("train", "val", "test")):
        splits[split] = []
        for number, (picture, thing) in enumerate(drawn(seed)):
            part = "train2014" if split == "train" and number % 2 else "val2014"
            image_id = f"COCO_{part}_{1000 * seed + number:012}"
            (root / part).mkdir(parents=True, exist_ok=True)
            (root / part / f"{image_id}.jpg").write_bytes(picture)
            splits[split].append((image_id, thing))
    return splits


def coco_cn(folder: Path) -> None:
    """coco-cn_{train,val,test}.txt and captions in coco-cn, the pictures in coco."""
    (folder / "coco-cn").mkdir(parents=True)
    lines = []
    for split, pictures in _coco_pictures(folder / "coco").items():
        ids = "".join(f"{image_id}\n" for image_id, _ in pictures)
        (folder / "coco-cn" / f"coco-cn_{split}.txt").write_text(ids)
        lines += [f"{i}#{n}\t{t}\n" for i, thing in pictures for n, t in enumerate(chinese(thing))]
    captions = folder / "coco-cn" / "imageid.human-written-caption.txt"
    captions.write_text("".join(lines), encoding="utf-8")


def aic_icc(folder: Path) -> None:
    """AI Challenger's two folders, each with an array and a folder of pictures."""
    for seed, (split, date) in enumerate((("train", "20170902"), ("validation", "20170910"))):
        top = folder / f"ai_challenger_caption_{split}_{date}"
        images = top / f"caption_{split}_images_{date}"
        images.mkdir(parents=True)
        array = []
        for number, (picture, thing) in enumerate(drawn(seed)):
            name = f"{seed}f{number:02x}.jpg"
            (images / name).write_bytes(picture)
            array.append({"url": f"http://x/{name}", "image_id": name, "caption": chinese(thing)})
        text = json.dumps(array, ensure_ascii=False)
        (top / f"caption_{split}_annotations_{date}.json").write_text(text, encoding="utf-8")


def karpathy_flickr30k(folder: Path) -> None:
    """dataset_flickr30k.json and flickr30k-images."""
    (folder / "flickr30k-images").mkdir(parents=True)
    images = []
    for seed, split in enumerate(("train", "val", "test")):
        for picture, thing in drawn(seed):
            name = f"{1000092795 + len(images)}.jpg"
            (folder / "flickr30k-images" / name).write_bytes(picture)
            sentences = [{"raw": text} for text in english(thing)]
            own = {"imgid": len(images), "filename": name, "split": split}
            images.append({**own, "sentences": sentences})
    (folder / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))


def karpathy_coco(folder: Path) -> None:
    """dataset_coco.json beside COCO's two folders; half of the training set is "restval"."""
    images = []
    for split, pictures in _coco_pictures(folder).items():
        for image_id, thing in pictures:
            part = image_id.split("_")[1]
            of = "restval" if split == "train" and part == "val2014" else split
            own = {"filepath": part, "filename": f"{image_id}.jpg", "cocoid": int(image_id[-12:])}
            sentences = [{"raw": text} for text in english(thing)]
            images.append({**own, "split": of, "sentences": sentences})
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images}))
