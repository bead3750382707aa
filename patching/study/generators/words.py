"""Words and sentence frames of the synthetic English that the shipped model is trained on.

scripts/builtin_model/grammar.py makes the training texts of them, sentences.py pairs of prompts.
"""

from __future__ import annotations

FEMALE = (
    "Michelle Jessica Mary Alice Anna Barbara Betty Brenda Carol Catherine Christine Claire Clara "
    "Cynthia Deborah Denise Diana Diane Donna Doris Dorothy Edith Eleanor Elizabeth Ellen Emily "
    "Emma Esther Eva Evelyn Fiona Frances Gloria Grace Hannah Heather Heidi Helen Ingrid Irene "
    "Isabel Jacqueline Jane Janet Jean Jennifer Joan Joanna Josephine Joyce Judith Julia Karen "
    "Katherine Kathleen Laura Lillian Linda Lisa Louise Lucy Margaret Maria Marie Martha Melissa "
    "Monica Nancy Naomi Natalie Nicole Nora Olivia Pamela Patricia Phyllis Rachel Rebecca Rosa "
    "Ruth Sandra Sarah Sharon Sheila Sophie Stephanie Susan Teresa Theresa Ursula Valerie Vanessa "
    "Wendy"
).split()
MALE = (
    "John Aaron Adam Alan Albert Alexander Andrew Anthony Arthur Benjamin Bernard Bruce Charles "
    "Christopher Daniel David Dennis Derek Donald Douglas Edgar Edward Edwin Eric Ernest Eugene "
    "Francis Frank Frederick Gabriel Gary Geoffrey Gerald Gilbert Gregory Harold Harry Hector "
    "Henry Herbert Howard Hugh Isaac Jack Jacob James Jason Jeffrey Jeremy Jerome Jonathan Joseph "
    "Joshua Julian Keith Kenneth Kevin Larry Laurence Leonard Louis Lucas Marcus Mark Matthew "
    "Michael Nathan Nicholas Oliver Oscar Patrick Paul Peter Philip Ralph Raymond Richard Robert "
    "Roger Ronald Samuel Simon Stephen Steven Theodore Thomas Timothy Victor Vincent Walter "
    "William"
).split()
PRONOUN = {**dict.fromkeys(FEMALE, "she"), **dict.fromkeys(MALE, "he")}
FIRST_NAMES = tuple(PRONOUN)
SURNAMES = tuple(
    (
        "Jones Smith Adams Allen Anderson Armstrong Atkinson Bailey Baker Barnes Barrett Bates "
        "Bell Bennett Bishop Black Blake Bradley Brooks Brown Bryant Burke Burns Butler Campbell "
        "Carlson Carpenter Carroll Carter Chambers Chapman Clark Cole Coleman Collins Cooper Cox "
        "Crawford Cross Cunningham Davidson Davies Davis Dawson Dixon Duncan Dunn Edwards Elliott "
        "Ellis Evans Ferguson Fisher Fletcher Ford Foster Fowler Fox Freeman Fuller Garcia "
        "Gardner Gibson Gonzalez Gordon Graham Grant Gray Green Griffin Hall Hamilton Hansen "
        "Harper Harris Harrison Hart Harvey Hawkins Hayes Henderson Hicks Hill Holmes Hopkins "
        "Hudson Hughes Hunt Hunter Jackson Jenkins Johnson Johnston Kelly Kennedy King Knight "
        "Lambert Larson Lawson Lee Lewis Lopez Marshall Martin Martinez Mason Matthews Miller "
        "Mills Mitchell Moore Morgan Morris Murphy Murray Myers Nelson Newman Nichols Palmer "
        "Parker Patterson Payne Pearson Perkins Perry Peterson Phillips Porter Powell Price Reed "
        "Reynolds Rice Richards Richardson Riley Roberts Robertson Robinson Rodriguez Rogers Ross "
        "Russell Sanchez Sanders Schmidt Scott Shaw Simmons Simpson Spencer Stevens Stewart Stone "
        "Sullivan Taylor Thompson Tucker Turner Wagner Walker Wallace Ward Warren Watkins Watson "
        "Weaver Webb Wells West Wheeler White Wilson Wood Wright Young"
    ).split()
)

# Countries and capitals whose English names are one word and take no article (as the
# Netherlands does). Accents are dropped; disputed capitals are left out. Source: the
# United Nations' list of member states.
CAPITALS = dict(
    pair.split(":")
    for pair in (
        "Afghanistan:Kabul Albania:Tirana Algeria:Algiers Angola:Luanda Armenia:Yerevan "
        "Australia:Canberra Austria:Vienna Azerbaijan:Baku Bahrain:Manama Bangladesh:Dhaka "
        "Barbados:Bridgetown Belarus:Minsk Belgium:Brussels Belize:Belmopan Bhutan:Thimphu "
        "Bolivia:Sucre Botswana:Gaborone Brazil:Brasilia Bulgaria:Sofia Burundi:Gitega "
        "Cameroon:Yaounde Canada:Ottawa Chile:Santiago China:Beijing Colombia:Bogota "
        "Comoros:Moroni Croatia:Zagreb Cuba:Havana Cyprus:Nicosia Czechia:Prague "
        "Denmark:Copenhagen Djibouti:Djibouti Dominica:Roseau Ecuador:Quito Egypt:Cairo "
        "Eritrea:Asmara Estonia:Tallinn Eswatini:Mbabane Fiji:Suva Finland:Helsinki France:Paris "
        "Gabon:Libreville Georgia:Tbilisi Germany:Berlin Ghana:Accra Greece:Athens Guinea:Conakry "
        "Guyana:Georgetown Honduras:Tegucigalpa Hungary:Budapest Iceland:Reykjavik "
        "Indonesia:Jakarta Iran:Tehran Iraq:Baghdad Ireland:Dublin Italy:Rome Jamaica:Kingston "
        "Japan:Tokyo Jordan:Amman Kazakhstan:Astana Kenya:Nairobi Kiribati:Tarawa "
        "Kyrgyzstan:Bishkek Laos:Vientiane Latvia:Riga Lebanon:Beirut Lesotho:Maseru "
        "Liberia:Monrovia Libya:Tripoli Liechtenstein:Vaduz Lithuania:Vilnius "
        "Luxembourg:Luxembourg Madagascar:Antananarivo Malawi:Lilongwe Mali:Bamako Malta:Valletta "
        "Mauritania:Nouakchott Micronesia:Palikir Moldova:Chisinau Monaco:Monaco "
        "Mongolia:Ulaanbaatar Montenegro:Podgorica Morocco:Rabat Mozambique:Maputo "
        "Myanmar:Naypyidaw Namibia:Windhoek Nepal:Kathmandu Nicaragua:Managua Niger:Niamey "
        "Nigeria:Abuja Norway:Oslo Oman:Muscat Pakistan:Islamabad Palau:Ngerulmud "
        "Paraguay:Asuncion Peru:Lima Poland:Warsaw Portugal:Lisbon Qatar:Doha Romania:Bucharest "
        "Russia:Moscow Rwanda:Kigali Samoa:Apia Senegal:Dakar Serbia:Belgrade Singapore:Singapore "
        "Slovakia:Bratislava Slovenia:Ljubljana Somalia:Mogadishu Spain:Madrid Sudan:Khartoum "
        "Suriname:Paramaribo Sweden:Stockholm Switzerland:Bern Syria:Damascus Tajikistan:Dushanbe "
        "Tanzania:Dodoma Thailand:Bangkok Togo:Lome Tunisia:Tunis Turkey:Ankara "
        "Turkmenistan:Ashgabat Tuvalu:Funafuti Uganda:Kampala Ukraine:Kyiv Uruguay:Montevideo "
        "Uzbekistan:Tashkent Venezuela:Caracas Vietnam:Hanoi Yemen:Sanaa Zambia:Lusaka "
        "Zimbabwe:Harare"
    ).split()
)

ROLES = (
    "student teacher doctor painter writer singer farmer lawyer nurse pilot baker player dancer "
    "sailor reader swimmer driver cook speaker worker"
).split()
QUALITIES = (
    "top-notch first-rate gifted careful famous friendly clever patient modest skilful honest "
    "cheerful serious talented brilliant generous"
).split()
PLACES = (
    "store park school station market museum garden office beach library hospital restaurant "
    "village theatre church harbour"
).split()
OBJECTS = (
    "drink book letter ring ball basket flower ticket present coat key map bag picture lamp cup"
).split()
HOBBIES = "music chess tennis history painting cooking gardening sailing poetry mathematics".split()
FEELINGS = "tired hungry late ready lucky ill busy right wrong surprised".split()

# Sentences about a person: {n} is the whole name, {p} the pronoun.
ABOUT = (
    "{n} was a {quality} {role}.",
    "{n} is a {quality} {role}.",
    "{n} was known as a {quality} {role}.",
    "{n} worked as a {role} for many years.",
    "{n} wanted to become a {role}.",
    "{n} lived near the {place}.",
    "{n} went to the {place} every morning.",
    "{n} liked {hobby}.",
    "{n} liked {hobby} and {hobby2}.",
    "{n} had always loved {hobby}.",
    "{n} bought a {thing} at the {place}.",
    "{n} lost a {thing} in the {place}.",
    "{n} left a {thing} on the table.",
    "{n} met a {quality} {role} near the {place}.",
    "{n} won a prize for {hobby}.",
    "{n} said that {p} was {feeling}.",
    "{n} thought that {p} was {feeling}.",
    "{n} came home late because {p} was {feeling}.",
    "The {role} at the {place} was {n}, a friend of the family.",
    "The {role} often talked about {n} and the {thing}.",
    "Everyone at the {place} knew {n} very well.",
    "In the {place} there was a picture of {n} with a {thing}.",
    "A {role} gave {n} a {thing}.",
    "Last year {n} opened a small {place}.",
    "They say that {n} was the best {role} in town.",
)

GAVE = (
    "When {a} and {b} went to the {place}, {s} gave a {thing} to",
    "When {a} and {b} got a {thing} at the {place}, {s} decided to give it to",
    "{a} and {b} went to the {place}. {s} gave a {thing} to",
    "{a} and {b} had a lot of fun at the {place}. {s} handed a {thing} to",
    "After {a} and {b} left the {place}, {s} sent a {thing} to",
    "While {a} and {b} were working at the {place}, {s} showed a {thing} to",
    "Then {a} and {b} met at the {place}, and {s} passed a {thing} to",
    "Yesterday {a} and {b} were at the {place}, and {s} lent a {thing} to",
    "The friends {a} and {b} found a {thing} near the {place}, and {s} gave it to",
    "Once {a} and {b} had reached the {place}, {s} offered a {thing} to",
    "Because {a} and {b} liked the {place}, {s} bought a {thing} for",
    "{a} was with {b} at the {place} when {s} gave a {thing} to",
)

COUNTRY_TO_CAPITAL = (
    "The capital of {x} is",
    "The capital city of {x} is",
    "{x} has its capital in",
    "Everyone knows that the capital of {x} is",
    "Visitors to {x} often start in its capital,",
    "In {x} the capital is",
    "The name of the capital of {x} is",
    "The road to the capital of {x} ends in",
    "They flew to {x} and landed in",
    "If you go to {x}, do not miss",
)
CAPITAL_TO_COUNTRY = (
    "{c} is the capital of",
    "{c} is the capital city of",
    "{c} has long been the capital of",
    "Everyone knows that {c} is the capital of",
    "They moved to {c}, the capital of",
    "The people of {c} live in the capital of",
    "In {c} you can see the flag of",
    "A train to {c} brings you to the heart of",
    "The streets of {c} are the busiest in",
    "Letters sent to {c} go to",
)

# (singular, plural)
NOUNS = tuple(
    tuple(pair.split(":"))
    for pair in (
        "key:keys cabinet:cabinets dog:dogs door:doors house:houses tree:trees car:cars "
        "chair:chairs table:tables window:windows bird:birds boat:boats bridge:bridges "
        "teacher:teachers student:students picture:pictures book:books letter:letters road:roads "
        "river:rivers tower:towers horse:horses ship:ships lamp:lamps bag:bags basket:baskets "
        "flower:flowers box:boxes wall:walls roof:roofs painting:paintings computer:computers "
        "engine:engines garden:gardens farmer:farmers nurse:nurses"
    ).split()
)
PREPOSITIONS = ("to", "near", "behind", "beside", "above", "below", "from", "by", "with", "of")
STATES = (
    "on the left",
    "very old",
    "not here",
    "in the way",
    "made of wood",
    "quite new",
    "rather small",
    "easy to find",
    "covered with dust",
    "ready for the winter",
)

# (a thing, its opposite, the thing's adjective, the opposite's adjective)
OPPOSITES = tuple(
    tuple(line.split(":"))
    for line in (
        "summer:winter:hot:cold day:night:bright:dark desert:ocean:dry:wet "
        "elephant:mouse:big:small giant:dwarf:tall:short hare:tortoise:fast:slow "
        "stone:feather:heavy:light concert:lecture:loud:quiet cake:lemon:sweet:sour "
        "king:beggar:rich:poor exam:quiz:hard:easy lake:puddle:deep:shallow "
        "razor:spoon:sharp:blunt mountain:hill:high:low river:stream:wide:narrow "
        "party:funeral:happy:sad lion:rabbit:brave:timid palace:hut:grand:humble "
        "grandfather:baby:old:young highway:alley:busy:calm storm:breeze:strong:weak "
        "diamond:pebble:precious:cheap attic:kitchen:dusty:clean balloon:bottle:full:empty"
    ).split()
)
PREVIOUS = ("previous", "last", "earlier", "first", "other")
SEEMS = ("is being", "is", "was", "seems", "has been", "felt")
DEGREES = ("extremely", "very", "really", "quite", "unusually", "rather")
SEVERAL = ("house", "box", "road", "story", "room", "ship", "meal", "song", "game", "lamp")

SAID = (
    "said that",
    "thought that",
    "knew that",
    "hoped that",
    "believed that",
    "was sure that",
    "told everyone that",
    "did not think that",
    "went home because",
    "was glad that",
    "wrote in a letter that",
    "smiled when",
)
