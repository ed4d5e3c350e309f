"Small tables with the columns of known data sets, for the tests of tasks."

from datasets import ClassLabel, Value
from datasets import Image as ImageFeature
from samples import drawing, encoded


def picture(i):
    "A picture of its own as bytes."
    return dict(
        bytes=encoded(drawing(["red", "blue", "green", "black"][i % 4], (30 + i, 24))), path=None
    )


HUB = dict(
    vqav2=("vqa", dict(image=ImageFeature(), question=Value("string"), multiple_choice_answer=Value("string"),
        answers=[dict(answer=Value("string"), answer_id=Value("int64"))], image_id=Value("int64")),
        lambda i: dict(image=picture(i // 2), question=f"what is {i}", multiple_choice_answer="net",
                       answers=[dict(answer="net", answer_id=1)], image_id=i // 2), 1, {"net"}),
    nlvr2=("nlvr", dict(left_image=ImageFeature(), right_image=ImageFeature(), sentence=Value("string"), label=Value("string")),
        lambda i: dict(left_image=picture(i), right_image=picture(i + 1), sentence=f"a dog {i}", label=str(i % 2 == 0)),
        2, {"true", "false"}),
    nlvr2_lmms=("nlvr", dict(left_image=ImageFeature(), right_image=ImageFeature(), question=Value("string"), answer=Value("string")),
        lambda i: dict(left_image=picture(i), right_image=picture(i + 1), question=f"a dog {i}", answer=str(i % 2 == 0)),
        2, {"true", "false"}),
    snli_ve=("entailment", dict(image=ImageFeature(), filename=Value("string"), premise=Value("string"),
        hypothesis=Value("string"), label=ClassLabel(names=["entailment", "neutral", "contradiction"])),
        lambda i: dict(image=picture(i // 3), filename=f"{i // 3}.jpg", premise="a man", hypothesis=f"he {i}", label=i % 3),
        1, {"entailment", "neutral", "contradiction"}),
    easy=("vqa", dict(image=ImageFeature(), question=Value("string"), answer=Value("string")),
        lambda i: dict(image=picture(i // 2), question=f"is it {i}", answer=["yes", "no"][i % 2]), 1, {"yes", "no"}),
)  # fmt: skip
