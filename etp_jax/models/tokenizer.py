"""Tokenizers of the text tower: of a Hugging Face folder, of a run, or trained on the reports."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from etp_jax.errors import EtpError, one_line
from etp_jax.files import read_json, write_text
from etp_jax.models.huggingface import TOKENIZER, quiet_transformers

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARIES = ("tokenizer.json", "vocab.txt")
"""Files of which a folder must hold one; without them `transformers` makes up an empty vocabulary."""
CASED = 0.01
"""Least share of pieces with a capital in a cased vocabulary; some lower-case ones have a few."""
SAMPLE = "Aa Ää Éé ST-T V1, 3 mm."
ADVICE = "get the file again"


class Tokenizer:
    """A tokenizer with its special tokens around each text, in BERT's case `[CLS] ... [SEP]`.

    Attributes:
        inner: the tokenizer of the library `tokenizers`; it neither pads nor truncates by itself.
        name: name of its class.
        side: side on which long texts are cut, `right` or `left`.
    """

    def __init__(self, inner: tokenizers.Tokenizer, name: str = "WordPiece", side: str = "right") -> None:
        """Wraps a `tokenizers.Tokenizer`, and turns off the padding and truncation that its file specifies."""
        inner.no_padding()
        inner.no_truncation()
        self.inner, self.name, self.side = inner, name, side

    @classmethod
    def from_file(cls, file: Path) -> Tokenizer:
        """Loads the `tokenizer.json` that `save` wrote, or version 0.1; EtpError if it cannot be used."""
        content = read_json(file, ADVICE)
        try:
            inner = tokenizers.Tokenizer.from_str(json.dumps(content))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 (a panic of the library is no Exception)
            raise EtpError(f"{file}: not a tokenizer ({one_line(error)}); {ADVICE}") from None
        check_special(file, inner)
        return cls(inner, side=(inner.truncation or {}).get("direction", "right"))

    @classmethod
    def from_folder(cls, folder: Path, lowercase: Literal["auto", "true", "false"] = "auto") -> Tokenizer:
        """Loads the tokenizer of a Hugging Face folder; token ids are those of `transformers.AutoTokenizer`.

        Args:
            folder: holds `tokenizer.json` or `vocab.txt`, and usually `tokenizer_config.json`.
            lowercase: whether text is lower-cased; `auto`: as the folder specifies.

        Raises:
            EtpError: a file is missing or damaged, the tokenizer needs code of its own, or it lacks a special token.
        """
        vocabulary = next((folder / name for name in VOCABULARIES if (folder / name).exists()), None)
        if vocabulary is None:
            raise EtpError(f"{folder}: no tokenizer; expected {' or '.join(VOCABULARIES)}")
        for name in TOKENIZER:
            if name.endswith(".json") and (folder / name).exists():
                check_json(folder / name)
        try:
            loaded = load_automatically(folder)
        except Exception as error:  # noqa: BLE001 (types differ between versions and kinds of tokenizers)
            raise EtpError(
                f"{folder}: transformers cannot load its tokenizer ({one_line(error)}); get its files again"
            ) from None
        inner, name = getattr(loaded, "backend_tokenizer", None), type(loaded).__name__
        if inner is None:
            raise EtpError(f"{folder}: {name} has no form for the library `tokenizers`; name another text tower")
        check_special(vocabulary, inner)
        if getattr(loaded, "split_special_tokens", False):
            raise EtpError(f"{folder}: split_special_tokens is not supported; remove it from tokenizer_config.json")
        if lowercase != "auto":
            set_lowercase(folder, inner, lowercase == "true")
        return cls(inner, name, loaded.truncation_side)

    @classmethod
    def train_wordpiece(cls, texts: Sequence[str], vocabulary: int) -> Tokenizer:
        """Trains a lower-case vocabulary of at most `vocabulary` pieces; the result depends on the texts only."""
        # The trainer numbers word-internal letters in the order of a random hash map, and breaks ties by number.
        # Giving it every letter first, in sorted order, removes this randomness.
        bare = wordpiece({}, lowercase=True)
        letters = sorted({c for text in texts for c in bare.normalizer.normalize_str(text) if not c.isspace()})
        first = [*SPECIAL, *letters, *(f"##{c}" for c in letters)]
        trainer = trainers.WordPieceTrainer(
            vocab_size=max(vocabulary, len(first)), special_tokens=first, show_progress=False
        )
        bare.train_from_iterator(sorted(texts), trainer)
        return cls(wordpiece(bare.get_vocab(), lowercase=True))

    def save(self, file: Path) -> None:
        """Writes `tokenizer.json`."""
        if self.side != "right":  # the file has a place for the side only as part of a truncation
            self.inner.enable_truncation(512, direction=self.side)
        write_text(file, self.inner.to_str(pretty=True))
        self.inner.no_truncation()

    @property
    def size(self) -> int:
        """Number of pieces, special ones included."""
        return self.inner.get_vocab_size()

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the numbered pieces and of how the tokenizer treats capitals, accents and punctuation."""
        [treated] = self([SAMPLE], 64)
        content = json.dumps([sorted(self.inner.get_vocab().items()), treated, *([self.side] * (self.side == "left"))])
        return hashlib.sha256(content.encode()).hexdigest()

    def __call__(self, texts: Sequence[str], max_tokens: int | None) -> list[list[int]]:
        """Returns the token ids of each text, `[CLS]` and `[SEP]` included, truncated to `max_tokens` unless None."""
        if max_tokens is not None:
            self.inner.enable_truncation(max_tokens, direction=self.side)
        encodings = self.inner.encode_batch(list(texts))
        self.inner.no_truncation()
        return [encoding.ids for encoding in encodings]

    @property
    def unknown(self) -> int | None:
        """Token id of an unknown word."""
        return self.inner.token_to_id(getattr(self.inner.model, "unk_token", None) or "[UNK]")

    @property
    def lowercases(self) -> bool:
        """Whether text is lower-cased."""
        normalizer = self.inner.normalizer
        return normalizer is not None and "A" not in normalizer.normalize_str("A")

    def doubts(self) -> list[str]:
        """Describes what looks wrong with the tokenizer of a folder, one line each."""
        words = [word for word in self.inner.get_vocab(with_added_tokens=False) if not word.startswith("[")]
        cased = sum(word != word.lower() for word in words) / max(len(words), 1)
        found = []
        if self.lowercases and cased >= CASED:
            found.append(
                f"text is lower-cased, but {cased:.0%} of the vocabulary has capitals; if the tower was trained on "
                "cased text, add --model.text.lowercase false"
            )
        if not self.lowercases and cased < CASED:
            found.append(
                "capitals are kept, but the vocabulary has none, so words with a capital are unknown; "
                "add --model.text.lowercase true"
            )
        if len(self.inner.encode("").ids) != 2:
            found.append("the tokenizer does not put one token before and one after a text, as BERT's does")
        return found


def check_json(file: Path) -> None:
    """Raises EtpError that names a damaged file, which the library's errors do not.

    `read_json` would refuse the 10**30 that `transformers` writes as the length of a text without a limit.
    """
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise EtpError(f"{file}: cannot be read ({one_line(error)}); {ADVICE}") from None
    if not isinstance(content, dict):
        raise EtpError(f"{file}: holds no JSON object; {ADVICE}")


def load_automatically(folder: Path) -> Any:
    """Loads a folder by `AutoTokenizer`, without code from the folder and without a network."""
    # `nosec`: a folder has no revision, and nothing is downloaded.
    options = {"use_fast": True, "trust_remote_code": False, "local_files_only": True}
    with quiet_transformers() as transformers:
        try:
            return transformers.AutoTokenizer.from_pretrained(folder, **options)  # nosec B615
        except Exception:
            # Folders of 2019 name neither model_type nor tokenizer_class.
            config = read_json(folder / "config.json", ADVICE) if (folder / "config.json").exists() else {}
            if "model_type" in config:
                raise
            return transformers.BertTokenizerFast.from_pretrained(folder, **options)  # nosec B615


def set_lowercase(folder: Path, inner: tokenizers.Tokenizer, lowercase: bool) -> None:
    """Turns lower-casing on or off; accents follow it, unless the folder specifies them."""
    normalizer: Any = inner.normalizer
    if not isinstance(normalizer, normalizers.BertNormalizer):
        raise EtpError(f"{folder}: its tokenizer has no switch for lower-casing; set --model.text.lowercase auto")
    normalizer.lowercase = lowercase
    inner.normalizer = normalizer


def wordpiece(vocabulary: dict[str, int], lowercase: bool) -> tokenizers.Tokenizer:
    """Builds a tokenizer from a vocabulary, with BERT's normaliser, splitter, WordPiece and `[CLS] ... [SEP]`."""
    inner = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    special = [token for token in SPECIAL if token in vocabulary]
    inner.add_special_tokens(special)
    if "[CLS]" in vocabulary:
        inner.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    return inner


def check_special(where: Path, inner: tokenizers.Tokenizer) -> None:
    """Raises EtpError when the vocabulary lacks a special token that the tokenizer uses."""
    own = inner.get_vocab(with_added_tokens=False)
    unknown = getattr(inner.model, "unk_token", None)
    for token in [*inner.encode("").tokens, *([unknown] if unknown else [])]:
        if token not in own:  # `transformers` adds it, with a number that the weights do not know
            raise EtpError(f"{where}: lacks the token {token}; this is not the tokenizer of the text tower")
