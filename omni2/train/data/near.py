"""What people say that sounds like an order to stop, or holds a part of one, and is none; and what listeners nod."""

from functools import cache
from itertools import product

from omni2.train.data.reserved import NEAR

NEAR_PHRASES = (
    "Don't stop.", "Don't stop, Omni.", "The bus stop.", "Top honey.", "Omni.", "Hey Omni.", "Omni, go on.", "Stop.",
    "Stop it.", "Stop by on Monday.", "Non-stop.", "The next stop is ours.", "Shop only.", "Stopped on me.",
    "A top army.", "Drop any.", "Stock money.", "Some honey.", "Omnibus.", "On the bus.", "Start, Omni.",
    "Tell me more, Omni.", "Thank you, Omni.", "Stop talking to me about it.", "The story stops here.",
    "Is there a stop on the way?", "Harmony.", "Economy.", "Stop sign.", "I never stop moaning.", "Please go on.",
    "Omni, what time is it?",
)  # fmt: skip
NAMES = (
    "Anna", "Tommy", "Johnny", "Bonnie", "Ronnie", "Donny", "Sonny", "Molly", "Holly", "Polly", "Bobby", "Robby",
    "Emily", "Amy", "Naomi", "Anthony", "Stephanie", "Melanie", "Lenny", "Jenny", "Penny", "Denny", "Harry", "Larry",
    "Mary", "Carrie", "Henry", "Jeremy", "Oliver", "Oscar", "Olga", "Otto", "Maria", "Peter", "David", "Laura",
    "Alexa", "Siri", "Simon", "Monica", "Veronica", "Dominic", "Tom", "John", "Mom", "Dad",
)  # fmt: skip
THINGS = (
    "the bus", "the music", "the engine", "the clock", "the train", "the fight", "the noise", "the water", "the film",
    "at the shop", "at the corner", "for a minute", "for lunch", "on the way", "on Monday", "in the middle", "in time",
    "and listen", "and look", "and wait", "worrying", "running", "crying", "laughing", "asking me", "any of them",
    "only once", "over there", "under the bridge", "me if you can", "him", "them", "when you are tired", "smoking",
)  # fmt: skip
TALK = (
    "tell me more", "keep talking", "what is that", "how are you", "who are you", "that was good", "say it again",
    "speak up", "wait a moment", "listen to me", "you are right", "I like that", "start again", "never mind",
    "stay here", "start", "step back", "stand by", "stuff it", "top that", "shop for me", "drop it", "chop it",
)  # fmt: skip
ABOUT = (
    "is here", "is my friend", "is a model", "is so kind", "was right", "was wrong", "knows a lot", "knows it",
    "said so", "told me", "can wait", "can hear us", "has a name", "has an answer", "never sleeps", "likes music",
    "understands", "sounds like a person", "helps me", "stops at nothing", "will answer", "and I",
    "or the radio", "on my phone",
)  # fmt: skip
LIKE_STOP = ("Top", "Shop", "Stock", "Step", "Stuff", "Start", "Drop", "Hop", "Pop", "Star", "Store", "Spot", "Scott",
             "Swap", "Chop", "Stomp", "Stab", "Stay", "Stand", "Stopped")  # fmt: skip
LIKE_OMNI = ("honey", "money", "any", "only", "army", "harmony", "many", "omelette", "anomaly", "enemy", "balcony",
             "on me", "on knees", "of me", "homily", "comedy", "alchemy", "Germany", "colony", "tummy")  # fmt: skip
NODS = (
    "Uh-huh.", "Right.", "Okay.", "Yeah.", "I see.", "Mm-hmm.", "Yes.", "Yep.", "Hmm.", "Mm.", "Sure.", "Really?",
    "Oh.", "Ah.", "Wow.", "Good.", "Great.", "Nice.", "Exactly.", "All right.", "That's right.", "Of course.",
    "Yeah, yeah.", "Okay, okay.", "Oh, I see.", "Yes, right.", "Uh-huh, uh-huh.", "Oh really?", "Yeah, sure.",
    "Right, right.", "Mm-hmm, yeah.", "Oh wow.",
)  # fmt: skip


@cache
def near_phrases() -> tuple[str, ...]:
    """`NEAR_PHRASES` and some hundred more: who or what else may stop, what else is said to Omni, what rhymes.

    None is an order, and none is kept for evaluation.
    """
    made = [
        *NEAR_PHRASES,
        *(f"Stop {name}." for name in NAMES),
        *(f"{name}, stop." for name in NAMES),
        *(f"Stop {thing}." for thing in THINGS),
        *(f"Omni, {words}." for words in TALK),
        *(f"{words[0].upper()}{words[1:]}, Omni." for words in TALK),
        *(f"Omni {words}." for words in ABOUT),
        *(f"{first} Omni." for first in LIKE_STOP),
        *(f"Stop {last}." for last in LIKE_OMNI),
        *(f"{first} {last}." for first, last in product(LIKE_STOP[::2], LIKE_OMNI[::2])),
    ]
    return tuple(text for text in dict.fromkeys(made) if text not in NEAR)
