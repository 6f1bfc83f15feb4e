"""Words with two pronunciations: the sentence decides."""

import pytest

from wishbone.plugins.phonemes.tokenizer import PhonemeTokenizer

SAID = {
    "red": "ɹɛd", "reed": "ɹid", "led": "lɛd", "leed": "lid", "liv": "lɪv", "lyve": "laɪv",
    "livz": "lɪvz", "lyves": "laɪvz", "wynd": "waɪnd", "wind": "wɪnd", "wynds": "waɪndz",
    "winds": "wɪndz", "tier": "tɪɹ", "tare": "tɛɹ", "tiers": "tɪɹz", "tares": "tɛɹz",
    "pahlish": "pɑlɪʃ", "pohlish": "poʊlɪʃ", "woond": "wund", "wownd": "waʊnd", "dohv": "doʊv",
    "duv": "dʌv", "duz": "dʌz", "dohz": "doʊz", "base": "beɪs", "bass": "bæs", "bough": "baʊ",
    "beau": "boʊ", "rau": "ɹaʊ", "roh": "ɹoʊ", "sau": "saʊ", "soh": "soʊ", "mynoot": "maɪnut",
    "minit": "mɪnɪt", "cloze": "kloʊz", "kloss": "kloʊs", "dizert": "dɪzɚt", "dezert": "dɛzɚt",
    "rizoom": "ɹɪzum", "rezoomay": "ɹɛzəmeɪ",
}  # fmt: skip
"""Names of pronunciations -> phonemes without stress."""

SENTENCES = """
read red I have read the book.
read red Have you ever read this?
read red She read it aloud last night.
read red The letter was read in court.
read red He is well read.
read red He had never read a novel.
read red They read it yesterday.
read reed I will read it tomorrow.
read reed Read the first line.
read reed She likes to read.
read reed I read every day.
read reed Can you read this?
read reed It was a good read.
read reed We always read the news.
read reed I did not read it.
lead led The old lead pipes were replaced.
lead led Lead is a heavy metal.
lead led It is made of lead.
lead led Lead poisoning is dangerous.
lead leed The lead singer left.
lead leed She will lead the team.
lead leed He was in the lead.
lead leed They lead by two points.
lead leed Take the lead.
live liv They live here.
live liv I live in Paris.
live liv We want to live in peace.
live liv Where do you live?
live lyve It was a live concert.
live lyve We are going live at noon.
live lyve The game was broadcast live.
live lyve A live wire fell down.
lives livz She lives in London.
lives livz He lives alone.
lives lyves It changed their lives.
lives lyves Cats have nine lives.
lives lyves It will save many lives.
wind wind The wind blew hard.
wind wind A cold wind came up.
wind wynd Wind the clock.
wind wynd Do not forget to wind up the toy.
wind wynd You have to wind it every day.
winds winds Strong winds are expected.
winds wynds The road winds through the hills.
winds wynds The river winds its way to the sea.
tear tier A tear ran down her cheek.
tear tier She wiped a tear away.
tear tier The police used tear gas.
tear tier He shed a single tear.
tear tier There was a tear in her eye.
tear tare There was a tear in the fabric.
tear tare Tear it apart.
tear tare Do not tear the paper.
tear tare I have a tear in my shirt.
tear tare There is wear and tear.
tears tiers She burst into tears.
tears tiers Tears ran down his face.
tears tiers He was close to tears.
tears tares He tears the letter up.
tears tares It tears easily.
polish pohlish The Polish people are kind.
polish pohlish She speaks Polish.
polish pohlish Polish is a language.
polish pohlish Polish food is good.
polish pahlish Polish your shoes.
polish pahlish I need to polish the table.
polish pahlish She bought red nail polish.
polish pahlish Polish the silver, please.
wound wownd He wound the clock.
wound wownd She wound the scarf around her neck.
wound wownd The path wound through the forest.
wound woond The wound was deep.
wound woond He had a head wound.
wound woond Words can wound people.
dove duv The dove flew away.
dove duv A white dove sat on the roof.
dove dohv She dove into the water.
dove dohv He dove off the cliff.
dove dohv The boy dove in.
does duz She does it every day.
does duz What does he want?
does duz It does not matter.
does dohz The does ran into the forest.
does dohz Two does and a buck crossed the road.
does dohz We saw three does.
bass base He plays bass guitar.
bass base She sings bass in the choir.
bass base Turn up the bass.
bass bass He caught a bass in the lake.
bass bass We ate grilled bass.
bass bass They went bass fishing.
bass bass The sea bass was fresh.
bow bough She took a bow.
bow bough Bow to the queen.
bow bough He stood at the bow of the ship.
bow beau She tied a bow in her hair.
bow beau He shot with a bow and arrow.
row roh They sat in the front row.
row rau The neighbours had a terrible row.
sow soh They sow seeds in spring.
sow soh You reap what you sow.
sow sau The sow had ten piglets.
minute minit Wait a minute.
minute minit The five minute walk was nice.
minute mynoot He explained it in minute detail.
minute mynoot There were minute particles in it.
close cloze Close the door.
close cloze Please close your eyes.
close kloss They were very close.
close kloss She sat close to the fire.
close kloss It was a close call.
desert dezert The desert is hot.
desert dizert He would never desert his friends.
resume rizoom We will resume the game.
resume rezoomay Send me your resume.
""".strip().split("\n")


@pytest.fixture(scope="module")
def tokenizer():
    return PhonemeTokenizer()


@pytest.mark.parametrize("line", SENTENCES)
def test_the_sentence_decides(tokenizer, line):
    word, name, text = line.split(" ", 2)
    said = [
        "".join(p.lstrip("ˈˌ") for p in spoken.phonemes)
        for spoken in tokenizer.words(text) if spoken.spelling.lower() == word
    ]  # fmt: skip
    assert said == [SAID[name]]
