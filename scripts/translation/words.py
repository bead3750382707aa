"""The words of the English-Spanish pairs, with the Spanish forms that agreement needs.

Nouns that begin with a stressed a (el agua) and adjectives that are shortened before a noun
(buen, gran) are left out.
"""

# English singular, English plural, Spanish singular, Spanish plural; "m" or "f".
NOUNS = [
    tuple(line.split())
    for line in """
    car cars coche coches m
    house houses casa casas f
    book books libro libros m
    table tables mesa mesas f
    chair chairs silla sillas f
    dog dogs perro perros m
    cat cats gato gatos m
    door doors puerta puertas f
    window windows ventana ventanas f
    garden gardens jardín jardines m
    street streets calle calles f
    city cities ciudad ciudades f
    tree trees árbol árboles m
    flower flowers flor flores f
    shirt shirts camisa camisas f
    shoe shoes zapato zapatos m
    hat hats sombrero sombreros m
    coat coats abrigo abrigos m
    bag bags bolsa bolsas f
    box boxes caja cajas f
    letter letters carta cartas f
    picture pictures cuadro cuadros m
    clock clocks reloj relojes m
    key keys llave llaves f
    ship ships barco barcos m
    train trains tren trenes m
    bicycle bicycles bicicleta bicicletas f
    bottle bottles botella botellas f
    glass glasses vaso vasos m
    plate plates plato platos m
    knife knives cuchillo cuchillos m
    spoon spoons cuchara cucharas f
    apple apples manzana manzanas f
    orange oranges naranja naranjas f
    tomato tomatoes tomate tomates m
    cake cakes pastel pasteles m
    bed beds cama camas f
    lamp lamps lámpara lámparas f
    mirror mirrors espejo espejos m
    wall walls pared paredes f
    bridge bridges puente puentes m
    church churches iglesia iglesias f
    school schools escuela escuelas f
    shop shops tienda tiendas f
    farm farms granja granjas f
    horse horses caballo caballos m
    cow cows vaca vacas f
    bird birds pájaro pájaros m
    ring rings anillo anillos m
    coin coins moneda monedas f
    """.strip().splitlines()
]
# English; Spanish masculine and feminine singular, masculine and feminine plural.
ADJECTIVES = [
    tuple(line.split())
    for line in """
    red rojo roja rojos rojas
    white blanco blanca blancos blancas
    black negro negra negros negras
    yellow amarillo amarilla amarillos amarillas
    green verde verde verdes verdes
    blue azul azul azules azules
    grey gris gris grises grises
    small pequeño pequeña pequeños pequeñas
    big grande grande grandes grandes
    new nuevo nueva nuevos nuevas
    old viejo vieja viejos viejas
    expensive caro cara caros caras
    cheap barato barata baratos baratas
    beautiful bonito bonita bonitos bonitas
    ugly feo fea feos feas
    long largo larga largos largas
    short corto corta cortos cortas
    heavy pesado pesada pesados pesadas
    round redondo redonda redondos redondas
    strange extraño extraña extraños extrañas
    """.strip().splitlines()
]
# Adjectives that stand before the noun in Spanish too.
BEFORE = [
    tuple(line.split())
    for line in """
    other otro otra otros otras
    same mismo misma mismos mismas
    last último última últimos últimas
    """.strip().splitlines()
]
# Adjectives of a state, which go with estar.
STATES = [
    tuple(line.split())
    for line in """
    clean limpio limpia limpios limpias
    dirty sucio sucia sucios sucias
    broken roto rota rotos rotas
    lost perdido perdida perdidos perdidas
    hidden escondido escondida escondidos escondidas
    """.strip().splitlines()
]
# English determiner of one and of several; Spanish as for adjectives.
DETERMINERS = [
    tuple(line.split())
    for line in """
    the the el la los las
    a some un una unos unas
    this these este esta estos estas
    that those ese esa esos esas
    my my mi mi mis mis
    your your tu tu tus tus
    our our nuestro nuestra nuestros nuestras
    """.strip().splitlines()
]
# English stem, third person, past; Spanish present, past and future of the six persons.
VERBS = [
    tuple(line.split())
    for line in """
    buy buys bought compr
    sell sells sold vend
    look_for looks_for looked_for busc
    need needs needed necesit
    paint paints painted pint
    wash washes washed lav
    take takes took tom
    carry carries carried llev
    """.strip().splitlines()
]
PERSONS = [("I", "yo"), ("you", "tú"), ("he", "él"), ("she", "ella"), ("we", "nosotros"),
           ("they", "ellos")]  # fmt: skip
NAMES = "Ana Luis Marta Pedro Lucía Jorge Elena Pablo Sofía Diego Laura Carlos".split()
PLACES = [
    ("in the kitchen", "en la cocina"),
    ("in the street", "en la calle"),
    ("in the garden", "en el jardín"),
    ("on the table", "sobre la mesa"),
    ("under the bed", "debajo de la cama"),
    ("near the river", "cerca del río"),
    ("behind the church", "detrás de la iglesia"),
]
NUMBERS = [
    ("two", "dos"),
    ("three", "tres"),
    ("four", "cuatro"),
    ("five", "cinco"),
    ("ten", "diez"),
]
MANY = [("many", "muchos", "muchas"), ("few", "pocos", "pocas")]
