"""Wordings of the domain's questions: openers x phrasings x closers.

A wording is a complete question template such as `plus: Can you tell me what {a} plus {b} is, please?`. Phrasings come
in three grammatical forms, each with its own openers: direct questions, indirect questions and requests.
"""

from __future__ import annotations

import random


DIRECT, INDIRECT, REQUEST = "direct", "indirect", "request"

OPENERS = {
    DIRECT: ["", "Hello, ", "Okay, ", "Now, ", "Hey, ", "Tell me, ", "My friend, ", "Joe, ", "One question, "],
    INDIRECT: ["Can you tell me ", "Do you know ", "Please tell me ", "I would like to know ", "Could you tell me ",
               "I want to know ", "Tell me ", "Can you say ", "I need to know ", "Joe, tell me "],
    REQUEST: ["", "Please ", "Can you ", "Could you ", "I want you to ", "Now ", "Joe, please "],
}  # fmt: skip
# Every combination of opener, phrasing and closer of a form is a wording, see `_composed`.
CLOSERS = ["", ", please", ", my friend", ", if you can"]
# Openers of indirect questions and requests that make them questions, with a question mark.
QUESTION_OPENERS = ("Can you ", "Do you ", "Could you ")

PHRASINGS: dict[str, dict[str, list[str]]] = {
    "plus": {
        DIRECT: ["what is {a} plus {b}", "how much is {a} plus {b}", "what do {a} and {b} make"],
        INDIRECT: ["what {a} plus {b} is", "how much {a} plus {b} is"],
        REQUEST: ["add {a} and {b}"],
    },
    "minus": {
        DIRECT: ["what is {a} minus {b}", "how much is {a} minus {b}"],
        INDIRECT: ["what {a} minus {b} is", "how much {a} minus {b} is"],
        REQUEST: ["take {b} from {a}"],
    },
    "next_number": {
        DIRECT: ["what number comes after {a}", "which number is after {a}"],
        INDIRECT: ["what number comes after {a}"],
        REQUEST: ["name the number after {a}"],
    },
    "previous_number": {
        DIRECT: ["what number comes before {a}", "which number is before {a}"],
        INDIRECT: ["what number comes before {a}"],
        REQUEST: ["name the number before {a}"],
    },
    "greater": {
        DIRECT: ["which is more, {a} or {b}", "what is more, {a} or {b}"],
        INDIRECT: ["which number is more, {a} or {b}"],
        REQUEST: ["name the bigger number, {a} or {b}"],
    },
    "double": {
        DIRECT: ["what is two times {a}", "how much is two times {a}"],
        INDIRECT: ["what two times {a} is", "how much two times {a} is"],
        REQUEST: ["double the number {a}"],
    },
    "half": {
        DIRECT: ["what is half of {a}", "how much is half of {a}"],
        INDIRECT: ["what half of {a} is", "how much half of {a} is"],
        REQUEST: ["give me half of {a}"],
    },
    "capital": {
        DIRECT: ["what is the capital of {a}", "which city is the capital of {a}"],
        INDIRECT: ["what the capital of {a} is", "which city is the capital of {a}"],
        REQUEST: ["name the capital of {a}"],
    },
    "capital_of": {
        DIRECT: ["{a} is the capital of which country", "which country has the capital {a}"],
        INDIRECT: ["which country has the capital {a}"],
        REQUEST: ["name the country with the capital {a}"],
    },
    "continent": {
        DIRECT: ["where is {a}", "in which part of the world is {a}"],
        INDIRECT: ["where {a} is", "in which part of the world {a} is"],
        REQUEST: ["say where {a} is"],
    },
    "opposite": {
        DIRECT: ["what is the opposite of {a}", "which word is the opposite of {a}"],
        INDIRECT: ["what the opposite of {a} is", "which word is the opposite of {a}"],
        REQUEST: ["name the opposite of {a}", "give me the opposite of {a}"],
    },
    "day_after": {
        DIRECT: ["what day comes after {a}", "which day is after {a}"],
        INDIRECT: ["which day comes after {a}"],
        REQUEST: ["name the day after {a}"],
    },
    "day_before": {
        DIRECT: ["what day comes before {a}", "which day is before {a}"],
        INDIRECT: ["which day comes before {a}"],
        REQUEST: ["name the day before {a}"],
    },
    "month_after": {
        DIRECT: ["what month comes after {a}", "which month is after {a}"],
        INDIRECT: ["which month comes after {a}"],
        REQUEST: ["name the month after {a}"],
    },
    "month_before": {
        DIRECT: ["what month comes before {a}", "which month is before {a}"],
        INDIRECT: ["which month comes before {a}"],
        REQUEST: ["name the month before {a}"],
    },
    "month_days": {
        DIRECT: ["how many days are in {a}", "how many days does {a} have"],
        INDIRECT: ["how many days are in {a}", "how many days {a} has"],
        REQUEST: ["say how many days are in {a}"],
    },
    "month_order": {
        DIRECT: ["what is the {a} month of the year", "which month is the {a} month"],
        INDIRECT: ["what the {a} month of the year is", "which month is the {a} month"],
        REQUEST: ["name the {a} month of the year"],
    },
    "season": {
        DIRECT: ["which season is it in {a}", "what season do we have in {a}"],
        INDIRECT: ["which season it is in {a}"],
        REQUEST: ["name the season we have in {a}"],
    },
    "units": {
        DIRECT: ["how many {parts} are in {whole}", "how many {parts} does {whole} have"],
        INDIRECT: ["how many {parts} are in {whole}", "how many {parts} {whole} has"],
        REQUEST: ["say how many {parts} are in {whole}"],
    },
    "color": {
        DIRECT: ["what color is {a}", "which color does {a} have"],
        INDIRECT: ["what color {a} is", "which color {a} has"],
        REQUEST: ["name the color of {a}"],
    },
    "mix": {
        DIRECT: ["what color do {a} and {b} make", "which color do we get from {a} and {b}"],
        INDIRECT: ["what color {a} and {b} make", "which color we get from {a} and {b}"],
        REQUEST: ["name the color we get from {a} and {b}"],
    },
    "bigger": {
        DIRECT: ["which is bigger, {a} or {b}", "what is bigger, {a} or {b}"],
        INDIRECT: ["what is bigger, {a} or {b}"],
        REQUEST: ["say which is bigger, {a} or {b}"],
    },
    "smaller": {
        DIRECT: ["which is smaller, {a} or {b}", "what is smaller, {a} or {b}"],
        INDIRECT: ["what is smaller, {a} or {b}"],
        REQUEST: ["say which is smaller, {a} or {b}"],
    },
    "legs": {
        DIRECT: ["how many legs does {a} have"],
        INDIRECT: ["how many legs {a} has", "how many legs does {a} have"],
        REQUEST: ["say how many legs {a} has"],
    },
    "young": {
        DIRECT: ["what is a baby {a} called", "how do you call a baby {a}"],
        INDIRECT: ["what a baby {a} is called", "how you call a baby {a}"],
        REQUEST: ["give me the word for a baby {a}"],
    },
    "gives": {
        DIRECT: ["what does {a} give us", "what do we get from {a}"],
        INDIRECT: ["what {a} gives us", "what we get from {a}"],
        REQUEST: ["say what {a} gives us"],
    },
    "does": {
        DIRECT: ["what {do} {a} {verb}", "who or what {do} {a} {verb}"],
        INDIRECT: ["what {a} {third}", "who or what {a} {third}"],
        REQUEST: ["say what {a} {third}"],
    },
    "home": {
        DIRECT: ["where do {a} live", "in what place do {a} live"],
        INDIRECT: ["where {a} live", "in what place {a} live"],
        REQUEST: ["say where {a} live"],
    },
    "use": {
        DIRECT: ["what do we use {a} for", "why do we use {a}"],
        INDIRECT: ["what we use {a} for", "why we use {a}"],
        REQUEST: ["say what we use {a} for"],
    },
    "kind": {
        DIRECT: ["what is {a}", "what kind of thing is {a}"],
        INDIRECT: ["what {a} is", "what kind of thing {a} is"],
        REQUEST: ["say what kind of thing {a} is"],
    },
}

# Complete questions of the talk family, by name of the answer.
TALK: dict[str, list[str]] = {
    "hello": ["hello", "hello there", "hello to you", "a big hello to you"],
    "how": ["how are you?", "how are you today?", "how do you feel today?", "are you well?"],
    "name": ["what is your name?", "who are you?", "tell me your name", "what do people call you?"],
    "what": ["what are you?", "what kind of thing are you?", "are you a computer?", "say what you are"],
    "morning": ["good morning", "good morning to you", "I wish you a good morning", "a very good morning"],
    "night": ["good night", "good night to you", "I wish you a good night", "a very good night"],
    "thanks": ["thank you", "thank you very much", "thank you for your help", "many thanks"],
    "bye": ["goodbye", "goodbye for now", "see you soon", "I have to go now"],
    "help": ["what can you do?", "how can you help me?", "what do you know?", "can you help me?"],
    "old": ["how old are you?", "are you old or young?", "tell me how old you are", "when were you made?"],
    "happy": ["are you happy?", "are you happy today?", "do you feel happy?", "tell me if you are happy"],
    "hear": ["can you hear me?", "do you hear me?", "can you hear me well?", "tell me if you can hear me"],
    "sorry": ["I am sorry", "I am very sorry", "sorry about that", "please forgive me"],
    "afternoon": ["good afternoon", "good afternoon to you", "I wish you a good afternoon", "a very good afternoon"],
    "home": ["where do you live?", "where is your home?", "where are you now?", "tell me where you live"],
    "speak": ["can you speak English?", "do you speak English?", "which words can you speak?",
              "tell me if you speak English"],
}  # fmt: skip
TALK_OPENERS = ["", "Okay, ", "Hey, ", "Joe, ", "Well, "]
TALK_CLOSERS = ["", ", my friend", ", Joe", ", please"]

# Wordings of both splits together, and those of them that are held out.
WORDINGS_PER_KIND = 45
HELD_OUT_PER_KIND = 6
WORDINGS_PER_TALK = 22
HELD_OUT_PER_TALK = 4


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _composed(kind: str) -> list[str]:
    """Lists every composition for a kind, bare phrasings first."""
    templates: list[str] = []
    for form, phrasings in PHRASINGS[kind].items():
        for closer in CLOSERS:
            for opener in OPENERS[form]:
                # No second "please" or "friend" in one question.
                if ("lease" in opener and "please" in closer) or ("friend" in opener and "friend" in closer):
                    continue
                asks = form == DIRECT or opener.startswith(QUESTION_OPENERS)
                for phrasing in phrasings:
                    # A slot at the start is filled before the capital is set, see `fill`.
                    templates.append(f"{opener}{phrasing}{closer}{'?' if asks else '.'}")
    return templates


def _composed_talk(name: str) -> list[str]:
    templates: list[str] = []
    for closer in TALK_CLOSERS:
        for opener in TALK_OPENERS:
            if "Joe" in opener and "Joe" in closer:
                continue
            for phrase in TALK[name]:
                # Only requests are asked politely: "Good morning, please" is no greeting.
                if closer == ", please" and not phrase.startswith(("tell", "say")):
                    continue
                mark = "?" if phrase.endswith("?") else "."
                templates.append(f"{opener}{phrase.rstrip('?')}{closer}{mark}")
    return templates


def fill(wording: str, slots: dict[str, str]) -> str:
    """Fills the slots of a wording.

    Args:
        wording: `kind: template`, as returned by `split_wordings`.
        slots: Slot -> value.

    Returns:
        The question with a capital first letter.
    """
    return _capital(wording.split(": ", 1)[1].format(**slots))


def split_wordings(seed: int) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Chooses the training and held-out wordings of every kind of question.

    The bare phrasings (no opener, no closer) and one wording with each opener are always in training, so that a
    held-out wording is a new composition of known parts.

    Args:
        seed: Seed of the choice.

    Returns:
        Kind -> training wordings, and kind -> held-out wordings; a wording is `kind: template`.
    """
    rng = random.Random(seed)
    train: dict[str, list[str]] = {}
    held_out: dict[str, list[str]] = {}
    kinds = [(kind, _composed(kind), WORDINGS_PER_KIND, HELD_OUT_PER_KIND) for kind in PHRASINGS]
    kinds += [(f"talk_{name}", _composed_talk(name), WORDINGS_PER_TALK, HELD_OUT_PER_TALK) for name in TALK]
    for kind, templates, wanted, out in kinds:
        # 1. Training gets the phrasings without an opener and without a comma, which closers begin with.
        bare = [t for t in templates if not t.startswith(tuple(o for o in _all_openers() if o)) and "," not in t]
        kept = list(dict.fromkeys(bare))
        if not kind.startswith("talk_"):
            # 2. And for each opener a wording with a random phrasing and closer.
            for form, openers in OPENERS.items():
                for opener in openers:
                    phrasing = rng.choice(PHRASINGS[kind][form])
                    closer = rng.choice(CLOSERS[:1] + CLOSERS[2:])
                    kept += [t for t in templates if t.startswith(f"{opener}{phrasing}{closer}") and t not in kept][:1]
        # 3. Held-out wordings are drawn from the others; what is left fills up training.
        rest = [t for t in dict.fromkeys(templates) if t not in kept]
        rng.shuffle(rest)
        held_out[kind] = [f"{kind}: {t}" for t in rest[:out]]
        train[kind] = [f"{kind}: {t}" for t in (kept + rest[out:])[: max(wanted - out, len(kept))]]
    return train, held_out


def _all_openers() -> list[str]:
    return [opener for openers in (*OPENERS.values(), TALK_OPENERS) for opener in openers]
