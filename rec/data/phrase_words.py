"""Words that decide whether a phrase can be mirrored: what is English, and how sides are named in other words."""

import re

# Left and right of other languages in Latin script, with their usual spelling without accents; last, what English shortens
# them to. Words that English has with another meaning are left out, or phrases with them would lose their mirror image.
_SIDES = """
links linke linken linker linkes linkem linkse linksaußen linksaussen rechts rechte rechten rechter rechtes rechtem
rechtse linkerkant rechterkant linkerhand rechterhand linkerzijde rechterzijde linksboven linksonder rechtsboven
rechtsonder linksoben rechtsoben
izquierda izquierdo izquierdas izquierdos izq derecha derecho derechas derechos dcha dcho
esquerda esquerdo esquerdas esquerdos direita direito direitas direitos esquerra esquerre esquerres dreta dret dretes
gauche gauches droite droit droites droits
sinistra sinistro sinistre sinistri destra destro destre destri
stânga stanga stâng stângă dreapta dreaptă drept drepte
vänster vänstra vanster vanstra höger högra hoger hogra venstre høyre hoyre højre hojre vinstri hægri
vasen vasemman vasemmalla vasemmalta vasemmassa vasempi vasemmanpuoleinen oikea oikean oikealla oikealta oikeassa
oikeanpuoleinen vasak vasakul vasakpoolne paremal parempoolne
bal balra baloldal baloldali baloldalon jobb jobbra jobboldal jobboldali jobboldalon
lewa lewy lewe lewej lewego lewym lewą lewo prawa prawy prawe prawej prawego prawym prawą prawo
vlevo nalevo doleva zleva levá levý levé levou levém levého vpravo napravo doprava zprava pravá pravý pravé pravou
pravém pravého vľavo naľavo ľavá ľavý ľavé ľavej pravej
lijevo lijevi lijeva lijevom lijevoj desno desni desna desnom desnoj levo leva desne nadesno nalijevo ulevo udesno
sol solda soldaki solundaki soldan sağ sağda sağdaki sağındaki sağdan sagda sagdaki
trái phải kiri kanan kaliwa kushoto kulia majtas djathtas kairė kairėje dešinė dešinėje kreisi kreisā labā labajā
ezkerra ezkerreko eskuina eskuineko
l r lhs rhs lh rh lt rt ls rs rgt rite lside rside lhand rhand starboard
"""  # noqa: RUF001
OTHER_SIDES = frozenset(_SIDES.split())

# The same in other scripts, as parts of words: some write no spaces, others put prefixes and endings to them.
SIDE_SIGNS = re.compile(
    "左|右|ひだり|みぎ|ヒダリ|ミギ|왼|오른|좌측|우측|лев[аоыуей]|прав[аоыуей]|лів[аоиуе]|ляв|десн|дясн|αριστερ|δεξι|يسار|يمين|يسر[ىا]"
    "|يمن[ىا]|أيسر|أيمن|ايسر|ايمن|چپ|راست|بائیں|دائیں|שמאל|ימין|ימני|बाए|बाय|बाई|बाँ|बाएँ|बाएं|दाए|दाय|दाई|दाहि|বাম|বাঁ|ডান|ซ้าย|ขวา"
    "|இடது|வலது|ఎడమ|కుడి|ձախ|աջ|მარცხ|მარჯვ"
)

# The commonest words of referring expressions and captions, singular: function words, people, their clothes and bodies,
# colours, sizes, places and doings, the things of COCO and Flickr photographs. They cover half of the words of 99 % of
# the phrases of the RefCOCO family and of Flickr30k Entities; phrases of other languages reach that without side words only.
_ENGLISH = """
a about above accordion acoustic across actually adidas adult advertisement advertising african afro after again against aged
air airborne aircraft airline airplane all alley alligator almond almost alone along alongside alpaca also always am ambulance
american among amount amusement an anchor and angel angry animal ankle another antelope antler any anybody anyone anything
anywhere apartment ape apparatus appear appetizer apple apron aqua arab arcade arch archway are area aren arm armchair army
around arrow art artificial artist as asian asparagus asphalt at athlete athletic atm attached attack attire atv audience
avocado award away awning baby back backdrop background backmost backpack backpacker backside backstroke backward backyard bacon
badge bag bagel bagpipe baked baking balance balcony bald balding bale ball ballcap ballerina balloon banana band bandage
bandaged bandana bandanna bang banister bank banner bar bare barefoot barely barge barn barrel barren barricade barrier
bartender base baseball baseman basically basil basket basketball bass bat bath bathing bathrobe bathroom bathtub batman baton
batsman batter battery bay be beach bead beaded beagle beak beam bean beanie bear beard bearded beautiful because bed bedspread
bee beef been beer before behind beige being belly belonging below belt bench bend bending beneath bent beret bernard beside
between beverage bib bicycle bicycler bicyclist bidet big bigger biggest bike biker biking bikini bill billboard bin binder
binocular bird birthday biscuit bison bite biting bitten black blackest blackish blank blanket bleacher blender blind blindfold
blk block blocked blocking blond blonde blondie blossom blouse blow blue blueberry bluff bluish blurred blurry bmw bmx boa board
boarder boardwalk boat body bodyboard bodysuit boeing bone boob boogie book bookcase bookshelf bookstore boot booth booty borad
border bored boston both bottle bottom bottommost boulder bounce bouncy bouquet bow bowl bowler bowling bowtie box boxcar boxer
boxing boy bra bracelet braid branch brand brass bread breakdancer breakfast breaking breast breed brick bride bridesmaid bridge
bridle briefcase bright brighter brightest brightly brindle british bro broccoli brocolli broken broom brother brown brownie
brownish browny brunette brush brushing bubble bucket bucking buckle buddy budweiser buffalo bug buggy building bule bull
bulldog bulldozer bum bump bumper bumpy bun bunch bundle bundled bungee bunk bunny burger burgundy burner burning burnt burrito
bus bush bushy business businessman buss busy but butt butter butterfly button buying by cab cabbage cabinet cable caboose cafe
cage cake calculator calf calico calm calve camaraman camcorder camel camera cameraman camo camouflage camper campfire camping
can canal candle candy cane cannon cannot canoe canon canopy cant cantaloupe canva canyon cap cape captain car caramel card
cardboard cardigan cargo carnival carpet carpeted carriage carrier carrot carry carrying cart carton cartwheel case cash cast
castle casual cat catch catcher catching cattle caucasian cauliflower caution cave ceiling celebrating celery cell cellphone
cement center centipede central centre cereal chain chainsaw chair chairlift chalk champagne chap character charger checked
checkered cheek cheering cheerleader cheese cheeseburger cheesecake cheetah chef cherry chest chested chevy chew chewing chick
chicken child children chili chin chinese chip chocolate chopped choppy chopstick christma chubby chunk church cigar cigarette
cilantro cinnamon circle circuit circular city clad clapping class classic claus clean cleanest cleaning clear clearest clearly
cliff climb climber climbing cloak clock close closed closer closest closet closeup cloth clothe clothing cloud cloudy clown
club coach coal coaster coat cob cobblestone coca cockpit cocktail coconut coffe coffee coffeemaker coke cola cold collar
collared college collide collie color colored colorful colorfully coloring colour coloured colourful colt column comb come
comforter coming competition competitor completely computer concrete cone confetti connected console construction container
content control controller convertible cook cooked cookie cooking cooky cool cop cord core corgi corn corndog corner costume
costumed cot cotton couch could couldn counter countertop country countryside coupe couple course court courtyard cover covered
covering cow cowboy cowgirl cpu crab cracked cracker craft crane crash crashing crate cream creature creek creepy crescent crib
cricket croc crocodile croissant cropped cross crossbone crosscountry crossed crossing crosswalk crouched crouching crowd
crowded crown cruise crumb crust crying cub cucumber cup cupboard cupcake curb curl curly curry curtain curve curved curvy
cushion customer cut cute cutest cutout cutting cycle cyclist d dachshund dad daddy dalmatian dalmation dance dancer dancing
dandelion dark darker darkest dart daughter day daytime dead deck decorated decoration deep deer defender deflated deft dell
delta denim desert desk desktop dessert device devil diagonal diamond diaper did didn different digital dimly diner dinner dip
directly dirt dirtiest dirty disc dish dishwasher disk display distant ditch dive diver diving do doberman dock doctor dodger
doe does doesn doesnt dog doll dollar dolphin domino don done donkey dont donut door doorknob doorway dot dotted double doughnut
down downhill dozen drag dragon dragster drain drape drawer drawing dread dreadlock dress dressed dresser dressing dried drill
drink drinking drive driver driveway driving droplet drum drummer drunk dry dryer drying duck duckling ducky dude duffel duffle
dugout dull dummy dumpster dune during dusk dust dusty dyed each eagle ear earmuff earphone earring east easter eastern eat
eaten eating edge egg eggplant eight eighth einstein either elaborate elbow elder elderly electric electrical electronic
elephant elevator eleven elk embankment embrace emptier empty enclosed enclosure end engine entering entire entirely entrance
envelope equestrian equipment escalator european even evening event ever every everybody everyone everything everywhere ewe
excited exercise exhaust exhibit exiting explosion expression extended extreme eye eyebrow eyed fabric face facial facing fair
fairy fake fall fallen falling family fan fancy far farm farmer farther farthest fashion fashioned fast fat father fatter
fattest faucet feather feathered feature feed feeding feet fella fellow female fence fenced fencer fencing ferry festive few
fewer fewest field fielder fifth fight fighter figure filled finger fingertip fire firefighter fireman fireplace firetruck
firework first fish fisherman fishing fist five flag flame flaming flamingo flannel flat fleece flight flip float floatation
floating floaty flock floor flop floppy floral florida flower flowered flowering flowery fluffier fluffy flute fly flyer flying
foal foam fog foggy foil folded folder folding foliage folk follow following food foot football footballer footprint for ford
foreground forehead foremost forest fork forklift formal formally formation forward fountain four fourth fox frame framed free
freezer french fresh freshly fridge fried friend fright frisbee frog from front frontmost frosted frosting frozen fruit fry
frying full fuller fullest fully funny fur furniture furrier furry further furthest fuzzy gal gallery game garage garb garbage
garden garlic garter gas gate gated gathering gazing gear geese gentleman german gesture get getting geyser ghost giant gift
gigolo ginger gir giraff giraffe girl give giving glass glazed glider glove gloved glue go goal goalie goat goatee goblet goes
goggle going gold golden golf gondola good goose gorilla gown grabbing graduation graffiti graffitied grandfather grandma
grandmother grandpa grape grapefruit graphic grass grassy gravel gravy gray grayish grazing great green greenery greenest
greenhouse greenish grey greyhound greyish gril grill grilled gripping grocery groom groomsmen groucho ground group guard guess
guide guitar guitarist gull gun guy gym gymnast gymnastic had hair hairbrush haircut hairdryer haired hairless hairstyle hairy
half halfway hallway halter ham hamburger hammer hand handbag handed handgun handle handlebar handrail handsome handstand hang
hanging happier happiest happy harbor hard hardwood harley harness has hasn hat hatchback have haven having hawaiian hawk hay he
head headband headboard headdress headed headlight headphone headscarf headscarve headset headwrap heart heater heavier heavy
heavyset heel heft helicopter hell hello helmet helmeted help hen her herb herd here herself hexagon hey hidden hiding high
highchair higher highest highway hike hiker hiking hill hillside hilly him himself hind hip hippie hipster his hispanic hit
hitter hitting hoagie hockey hog hold holding hole home homeless homemade honda honey hood hooded hoodie hoof hoop hoove hopper
hopscotch horizontal horn horse horseback horseshoe hose hot hotdog hotel hound house how hp huddle hug huge hugging hula hull
human hummingbird hump hunched hunting hurdle husband husky hut hydrant i ice icecream icicle icing icy identical idk if im
image in incense incline indian individual indoor industrial infant inflatable inflated injured inline innertube insect inside
instructor instrument interesting into ipad iphone ipod irish is isn isnt it item its itself jack jacket jackson jagged jam
japanese jar jean jeep jelly jersey jet jetblue jetty jewelry jockey jogger judge jug juice jump jumper jumping jumpsuit jungle
just kale kangaroo karate kayak kayaker keep keeper ketchup kettle keyboard khaki kick kicking kid kiddie kiddo kilt kimono kind
kinda kindle king kiss kissing kitchen kite kitten kitty kiwi knee kneeling knife knit knive know lab label labrador lace lack
lacrosse ladder ladle lady lake lamb lamp lamppost lampshade land landing landscape lane lantern lanyard lap laptop large larger
largest lasagna lasso last latte laughing lavender lawn lay layer laying lazy lead leader leading leaf leafy league lean leaning
leap lease leash leashed least leather leave leaving ledge left lefthand leftish leftmost leg legged legging lego lemon lemonade
lemonaid lens lent leopard leotard less lest let letter lettering lettuce liberty license licking lid lie life lift lifting
light lighter lightest like limb lime limo limousine line lined link lion lip lipstick liquid liquor lit litter little living
lizard ll llama loaf lobster locker locomotive loft log logo lol lollipop lone long longer longest look looking lot lounge
lounging loveseat low lower lowered lowermost lowest luggage lunch lush lying m mac macaroni macbook machine mad magazine main
make makeshift makeup making male mama man manager mane mango mannequin mantle many map marathon marble marching mare mark
marker market marking maroon marsh martial martini marx mascot mask masked massage mast master mat matching material mattress
may maybe mayo mayonnaise mcdonald me meadow meal meat meatball mechanical medal medieval medium melon melted member men menu
merchandise merry mess messy met metal meter mexican miami mic mice michael mickey microphone microwave mid midair middle midst
might military milk milkshake mine mini miniature minivan mirror mist mitt mitten mixer mobile model modem mohawk mom momma
mommy money monitor monkey monster monument moon moose mop moped more morning mosque moss mossy most mostly mother motocross
motor motorbike motorcycle motorcyclist motorized mound mountain mountaineer mountainous mountainside mountaintop mounted mouse
moustache mouth mouthwash move movie moving much mud muddy muffin mug mulch mule multi multicolor multicolored multiple mural
murky muscle muscular mushroom music musical musician must mustache mustard muzzle muzzled my myself n nacho nail naked name
napkin narrow native natural navy near nearby nearer nearest nearly neck necked necklace necktie need neither neon nerd net
never new newborn newer newest newlywed newspaper next nice night nightstand nighttime nike nine ninja nintendo ninth nipple no
nobody nokia noodle nor north northern nose nostril not note notebook nothing nowhere nude number numbered numerous nunchuck
nurse nut oar oatmeal obama object obscured obstacle obviously ocean odd of off office officer official oh ok okay oklahoma old
older oldest olive olympic omelet on one onion onlooker only onto open opened opponent opposing opposite or orange orangish orca
ordering oriental ornament ornate ostrich other ottoman our out outdoor outfit outlet outside outstretched oval oven over
overall overcoat overhang overhead overpass oversized overweight owl own owner ox oxen pacifier pack package pad padded paddle
paddling pail paint paintball painted painting pair pajama pale palm pan pancake panda pant papa paper paperwork para parachute
parade parasail parasailer parasol parent park parka parked parking parrot parsley part partial partially partly party pass
passenger past pasta pastel pastry patch path pathway patio pattern patterned paved pavement paw paying pea peace peach peacock
peak peanut pear pearl pebble pedal pedestrian peeking peel peeled peeping pelican pen pencil penguin pentagon people pepper
pepperoni pepsi perched performer performing perhaps period person pet petting phone photo photograph photographer piano pic
pick picket pickle pickup picnic picture pie piece pier pierced piercing pig pigeon piggyback pigtail pile pillar pillow pilot
pin pinata pine pineapple pink pinkish pinstripe pipe pirate pit pitbull pitcher pitching pizza pjs place placed placemat plaid
plain plane plank plant plastic plate platform platter play player playful playground playing playpen playstation plaza please
plug plugged plum plus plush pocket point pointed pointing pointy pole police policeman policemen political polka polo poncho
pond pony ponytail poodle pooh pool pop popcorn porch pork port portable portion portrait pose posing position possession post
poster pot potato potatoe potted pouring powder powdered power present press prettiest pretty pretzel priest prince princess
print printed printer pro probably produce professional profile propeller protection protective protest protester public puck
pudding puddle puffy pug pull pulley pulling puma pump pumpkin punch punk pup puppet puppy purple purplish purse push pushing
put puzzle pyramid quality quarter quarterback queen quesadilla quilt quite rabbit race racer racetrack racing rack racket
racquet radio radish raft rafter rag rail railcar railing railroad rain rainbow raincoat rainy raised rake rally ram ramp range
ranger rapid raspberry rat rather raw razor re reach reaching read reading real really rear recliner record rectangle
rectangular red reddest reddish redhead redheaded ref referee reflection reflective refrigerator register rein relaxing
religious remote rescue restaurant resting retriever ribbon rice ride rider ridge riding rifle right righthand rightish
rightmost ring rink ripe rival river riverbank road roadway robe robot rock rocket rocky rod rodeo roll rolled roller
rollerblade rollerblader rollerskate rolling roof rooftop room rooster rope rotten rottweiler rough round rounded router row
rowboat rubber rudder rug rugby ruin ruler run runner running runway rural russell rusty rv s saber sack sad saddle safety sail
sailboat salad salmon salon salsa salt same samsung sand sandal sandpit sandwhich sandwich sandwitch sandy santa sari sash sauce
saucer sausage saw saxophone say saying scantily scarf scarve scary scene scenic school schoolgirl scissors scooter scoreboard
scottish screen screwdriver scruffy scuba sculpture sea seagull seal seashore seat seated seaweed second section security sedan
see seed seem seen seesaw segment selling semi separate serious server serving sery set setting seven seventh several sexy sh
shade shadow shaggy shall shallow shape shaped share shark sharp shaved shawl she shed sheep sheepdog sheer sheet shelf shell
sheltie shelve shepherd shin shiniest shiny ship shirt shirted shirtless shoe shop shopper shopping shore shoreline short
shorter shortest shot should shoulder shovel show shower showgirl showing shown shrimp shrub shut siamese side sidecar sideline
sidewalk sideway sight sign signal silhouette silk silly silver silverware similar since singer singing single sink sister sit
sitting six sixth size sized skate skateboard skateboarder skateboarding skater skating skeleton ski skier skiier skiing skillet
skimpy skin skinned skinnier skinniest skinny skirt skull sky skydiver skyline skyscraper slack sled sledge sleeping sleepy
sleeve sleeved sleeveless sleigh slice sliced slide sliding slightly slim slip slipper slope small smaller smallest smile
smiling smoke smoking smooth smoothie snack snake sneaker snout snow snowball snowbank snowboard snowboarder snowboarding
snowcapped snowman snowmobile snowsuit snowy so soap soccer sock soda sofa soft softball soldier solid some somebody someone
something somewhat somewhere son sony sooner sorry sort sorta soup south southern southwest sox spaghetti spaniel sparkler
spatula speaker speaking special spectator speed speedo spider spiderman spigot spiky spinach spinning splash sponge sponsored
spoon sport spot spotlight spotted spout spray spring sprinkle sprinkled sprinkler sprite sprout square squash squatting
squirrel squirt st stable stack stacked stadium stage stair staircase stairway stall stallion stand standard standing stapler
star starbuck stare staring starting state station statue steak steam steel steep steer stem step stereo stew stick still
stocking stomach stone stool stoop stooping stop stoplight stopped store storefront storm story stove straight strange strap
straw strawberry stream streamer street streetcar streetlight stretch stretching string strip stripe striped stripy stroller
structure stuck student stuff stuffed stump stunt style sub subway such suds sugar suit suitcase suited summer sumo sun sundae
sunglass sunhat sunlight sunny sunset superior superman supply support supporter surf surface surfboard surfboarder surfer
surfing surprised sushi suspender suv swan sweater sweatshirt swim swimmer swimming swimsuit swing swinging sword syrup t tabby
table tablecloth tablet taco tag tail taillight take taking talk talking tall taller tallest tan tangerine tank tanktop tannest
tap tape target tarp tart tattoo tattooed taxi tea teacher teal team teammate teapot teddy tee teen teenage teenager teeth
telephone telescope television ten tenni tent tenth terrace terrain terrier text texting than that the theater their them themed
themselve then there these they thick thicker thigh thin thing thingy think thinner thinnest third this those three through
throw throwing thumb tiara ticket tie tied tier tiger tight tightrope tile tiled till tilted time tinkerbell tiny tip tire tired
tissue to toast toasted toaster toboggan toddler toe together toilet tomato tomatoe tongs tongue too tool tooth toothbrush
toothpaste top topless topmost topping torn torso tortilla totally tote touch touching tourist tow toward towel tower town toy
toyota track tracksuit tractor traditional traffic trail trailer train traincar trainer training tram trampoline transparent
trash trashcan tray treat tree trench triangle triangular trick tricycle triple tripod trolley trophy tropical truck trumpet
trunk try tshirt tub tube tug tugboat tulip tumbler tummy tuna tunnel turban turkey turn turned turning turquoise turtle tusk
tutu tuxedo tv tvs twelve twig twin two tying type typing u ugly uh uk um umbrella ump umpire uncovered uncut under underneath
underwear uneaten unfolded unicycle uniform uniformed united university unknown unlit unpeeled unripe unseen until unusual up
upon upper uppermost upright upside upturned ur urban urinal us usa using utensil vacuum valley van vanilla various vase ve
vegetable veggie veggy vehicle veil velvet vending vendor vent vertical very vest video view vine violet violin visible visor
vodka volkswagen volleyball volvo wading waffle wagon waist wait waiter waiting waitress wakeboard wakeboarder walk walker
walking walkway wall wand want war wardrobe warm warmly was washer washing wasn watch watching water watercraft waterfall
watering watermelon waterside waterski waterskier waterskiing waterway watery wave waving wavy way we wear wearing weather
wedding weed weird well were weren west western wet wetsuit whale what whatever wheel wheelbarrow wheelchair wheeled wheeler
wheelie when where wherever which whichever while whipped whisk whiskey whistle white whitest whitish who whole whom whose wht
why wicker wide wider widest wife wig wii wiimote wild will window windshield windsurfer wine wineglass wing winnie winter
wiping wire witch with within without wolf woman women won wont wood wooded wooden woodland wool woolly word work worker working
would wouldn woven wow wrap wrapped wrapper wrapping wrench wrestler wright wrist wristband writing xbox yacht yankee yard yello
yellow yellowish yep yes yogurt you young younger youngest youngster your youth zebra zip zipper zoo zucchini
"""
ENGLISH = frozenset(_ENGLISH.split())
