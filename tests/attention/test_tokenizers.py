"""Tokens joined to words: WordPiece, byte-level BPE and SentencePiece, trained on a few lines."""

import pytest
import torch

from attnviz.attention.text import joined
from attnviz.attention.written import split
from attnviz.models.text import members, offsets

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

#: a woman, a joiner and a rocket: one astronaut
ASTRONAUT = "\U0001f469\u200d\U0001f680"
LINES = [f"naïve café déjà vu {ASTRONAUT} boats, don't stop", "the boat sails far über straße"] * 20
TEXT = f"the naïve café  {ASTRONAUT} sails, über"


def bytes_in_pairs():
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=262, initial_alphabet=letters)
    return made, trainer


def pieces_of_sentences():
    made = tokenizers.Tokenizer(tokenizers.models.Unigram())
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=70, special_tokens=["<unk>"], unk_token="<unk>"
    )
    return made, trainer


def pieces_of_words():
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="<unk>"))
    made.normalizer = tokenizers.normalizers.BertNormalizer(strip_accents=False)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.decoder = tokenizers.decoders.WordPiece()
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=60, special_tokens=["<unk>"])
    return made, trainer


BUILT = [bytes_in_pairs, pieces_of_sentences, pieces_of_words]


def fast(build):
    made, trainer = build()
    made.train_from_iterator(LINES, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.mark.parametrize("build", BUILT)
def test_what_is_read_is_joined_to_words_without_spaces(build):
    tokenizer = fast(build)
    encoded = tokenizer(TEXT, return_tensors="pt", return_offsets_mapping=True)
    count = encoded["input_ids"].shape[1]
    assert count > 12  # several tokens a word
    spans, sums = joined(encoded, TEXT, torch.ones(count))
    found = [TEXT[a:b] for a, b in spans]
    signs = ["sails,"] if build is pieces_of_sentences else ["sails", ","]
    assert found == ["the", "naïve", "café", ASTRONAUT, *signs, "über"]
    words = zip(encoded.word_ids(0), encoded["offset_mapping"][0].tolist(), strict=True)
    read = {word for word, (a, b) in words if TEXT[a:b].strip()}
    assert float(sums.sum()) == sum(word in read for word in encoded.word_ids(0))


@pytest.mark.parametrize("build", BUILT)
def test_what_is_written_is_joined_to_words_with_all_their_tokens(build):
    tokenizer = fast(build)
    # WordPiece drops what joins the two signs
    sign = "stop" if build is pieces_of_words else ASTRONAUT
    ids = tokenizer(f"the naïve {sign} über")["input_ids"]
    text, spans = offsets(tokenizer, ids)
    pieces = split(text)
    found = dict(zip((text[a:b] for a, b in pieces), members(pieces, spans), strict=True))
    assert list(found) == text.split()
    assert found.keys() == {"the", "naïve", sign, "über"}
    spaces = [i for i, (a, b) in enumerate(spans) if not text[a:b].strip()]
    every = {i for own in found.values() for i in own} | set(spaces)
    assert every == set(range(len(ids)))  # no token of a letter of several is lost


def test_letters_of_several_tokens_belong_to_each_of_them():
    tokenizer = fast(bytes_in_pairs)
    ids = [*tokenizer("a ")["input_ids"], *tokenizer("\u6c34")["input_ids"]]  # three bytes
    text, spans = offsets(tokenizer, ids)
    assert text == "a \u6c34"
    assert len(ids) == 5
    assert members(split(text), spans) == [[0], [2, 3, 4]]


def test_marks_stay_with_what_they_mark():
    hindi = "\u0939\u093f\u0928\u094d\u0926\u0940"
    written = f"cafe\u0301 {hindi}, {ASTRONAUT}! \u2764\ufe0flove \U0001f44d\U0001f3fd"
    assert [written[a:b] for a, b in split(written)] == [
        "cafe\u0301", hindi, ",", ASTRONAUT, "!", "\u2764\ufe0f",
        "love", "\U0001f44d\U0001f3fd",
    ]  # fmt: skip
