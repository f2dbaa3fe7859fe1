"""Chinese-CLIP's layout: which texts stand with which image, in training and evaluation."""

from ernie_vil2.data.formats.build import build_reader
from tests.support.rows import b64, bad, png, write


def test_chinese_clip(tmp_path):
    images = [b"%d\t%s" % (i, b64(png(i))) for i in range(4)]
    imgs = write(tmp_path / "test_imgs.tsv", *images, b"broken", images[2])
    texts = write(
        tmp_path / "test_texts.jsonl",
        {"text_id": 1, "text": "二", "image_ids": [2]},
        {"text_id": 2, "text": "零和二", "image_ids": [0, 2]},
        b"{not json",
        {"text_id": 3, "text": "谁", "image_ids": [99]},
        {"text_id": 4, "text": "没有", "image_ids": []},
        {"text_id": 5, "text": "三", "image_ids": ["3"]},
    )
    reader = build_reader("chinese_clip", imgs=imgs, texts=texts)
    found = {reader[i].id: reader[i].captions for i in range(3)}
    assert found == {"0": ("零和二",), "2": ("二", "零和二"), "3": ("三",)}
    assert all(reader[i].image == png(int(reader[i].id)) for i in range(3))
    assert len(reader) == 6
    sources = [bad(reader, i).source for i in (3, 4, 5)]
    assert sources == [f"{imgs}:5", f"{texts}:3", f"{texts}:5"]
    assert reader.counts == {
        "images_without_text": 1,
        "repeated_images": 1,
        "texts_of_unknown_images": 1,
    }

    whole = reader.evaluation()
    assert len(whole) == 8 and len(reader) == 6
    assert [whole[i].id for i in range(5)] == ["0", "1", "2", "3", ""]
    assert (whole[1].captions, whole[1].image) == ((), png(1))  # a distractor
    assert (whole[4].captions, whole[4].image) == (("没有",), b"")
    assert whole[0].text_ids == ((1, 2),) and whole[2].text_ids == ((0, 1), (1, 2))
    assert whole[4].text_ids == ((4, 4),)
    assert [bad(whole, i).source for i in (5, 6, 7)] == [f"{imgs}:5", f"{texts}:3", f"{texts}:4"]
    assert "99" in bad(whole, 7).reason


def test_the_queries_of_muge_under_their_own_names(tmp_path):
    imgs = write(tmp_path / "MR_train_imgs.tsv", b"42967\t" + b64(png(1)))
    query = {"query_id": 8426, "query_text": "胖妹妹松紧腰长裤"}
    texts = write(
        tmp_path / "MR_train_queries.jsonl", {**query, "item_ids": [42967]}, {"query_id": 1}
    )
    reader = build_reader("chinese_clip", imgs=imgs, texts=texts)
    assert (reader[0].id, reader[0].captions) == ("42967", ("胖妹妹松紧腰长裤",))
    assert reader[0].text_ids == ((0, 8426),)
    assert "query_text" in bad(reader, 1).reason
    texts = write(tmp_path / "MR_test_queries.jsonl", query)  # the one to predict names no image
    whole = build_reader("chinese_clip", imgs=imgs, texts=texts).evaluation()
    assert [whole[i].captions for i in (0, 1)] == [(), ("胖妹妹松紧腰长裤",)]
    assert whole[1].text_ids == ((0, 8426),)
