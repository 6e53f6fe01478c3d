"""The words of stories, as data, beside those of `phrases`: what happens, what stays so, more motions and cameras, names.

{a} is who it happens to, {b} who does it, {wall} and {cover} what hides. Phrases for one kind of event may be exchanged freely.
"""

NAMES = ("Bobo", "Lulu", "Momo", "Kiki", "Tata", "Pipo", "Nono", "Zuzu")

ENGLISH = {
    "shape": {"lamp": ["lamp"], "apple": ["apple"]},
    "doing": {
        "roll left": ["rolling to the left", "rolling left"],
        "roll right": ["rolling to the right", "rolling right"],
    },
    "does": {
        "roll left": ["rolls to the left", "rolls left over the ground"],
        "roll right": ["rolls to the right", "rolls right over the ground"],
    },
    "event": {
        "hide": ["{a} goes behind {wall}", "{a} disappears behind {wall}", "{a} is hidden by {wall}"],
        "appear": ["{a} comes out from behind {wall}", "{a} appears again from behind {wall}"],
        "leave left": ["{a} leaves the picture on the left", "{a} goes out of view to the left"],
        "leave right": ["{a} leaves the picture on the right", "{a} goes out of view to the right"],
        "return left": ["{a} comes back from the left", "{a} returns from the left"],
        "return right": ["{a} comes back from the right", "{a} returns from the right"],
        "cover": ["{cover} comes down over {a}", "{a} is covered by {cover}", "{cover} hides {a}"],
        "uncover": ["{cover} is lifted off {a}", "{cover} goes up and shows {a}"],
        "switch on": ["{a} is switched on", "{a} lights up", "{a} goes on"],
        "bite": ["a bite is taken out of {a}", "{a} is bitten", "{a} loses a bite"],
        "fall": ["{a} falls from above", "{a} drops to the ground", "{a} falls down from the air"],
        "knock over": ["{b} knocks over {a}", "{a} is knocked over by {b}", "{b} hits {a} and makes it fall over"],
        "push": ["{b} pushes {a}", "{b} hits {a} and pushes it along", "{a} is pushed by {b}"],
        "collide": ["{b} and {a} collide", "{b} bumps into {a}", "{b} and {a} hit each other"],
    },
    "first": ["first", "at first", "to begin with"],
    "then": ["then", "after that", "next", "later"],
    "lasting": {
        "on": ["{a} stays on", "{a} keeps shining", "{a} is now on"],
        "bitten": ["{a} stays bitten", "{a} has a bite missing"],
        "down": ["{a} stays down", "{a} lies on its side"],
        "covered": ["{a} is now covered", "{a} stays under the cover"],
    },
    "wall": {"grey": ["grey wall", "gray wall"], "brown": ["brown wall"]},
    "cover": ["grey cover"],
    "there": ["{list} {is} {where} {when}", "{where} {when} there {is} {list}", "{when}, {where}, there {is} {list}"],
    "is": ["is", "are"],
    "films": {
        "pan left": ["The camera pans to the left.", "The camera turns left."],
        "pan right": ["The camera pans to the right.", "The camera turns right."],
        "pan": ["The camera pans.", "The camera turns from side to side."],
        "tilt up": ["The camera tilts up.", "The camera looks up."],
        "tilt down": ["The camera tilts down.", "The camera looks down."],
        "tilt": ["The camera tilts.", "The camera looks up and down."],
        "rise": ["The camera rises.", "The camera goes up."],
        "follow": ["The camera follows {a}.", "The camera moves along with {a}."],
    },
    "named": ["{a} called {name}", "{a} named {name}"],
    "is who": ["{name} is {a}"],
    "words": ["a", "an", "the", "and"],
}

CHINESE = {
    "shape": {"lamp": ["灯", "台灯"], "apple": ["苹果"]},
    "does": {"roll left": ["向左滚动", "往左滚"], "roll right": ["向右滚动", "往右滚"]},
    "event": {
        "hide": ["{a}躲到{wall}后面", "{a}消失在{wall}后面", "{a}被{wall}挡住"],
        "appear": ["{a}从{wall}后面出来", "{a}从{wall}后面再次出现"],
        "leave left": ["{a}从左边离开画面", "{a}向左移出画面"],
        "leave right": ["{a}从右边离开画面", "{a}向右移出画面"],
        "return left": ["{a}从左边回来", "{a}从左边回到画面"],
        "return right": ["{a}从右边回来", "{a}从右边回到画面"],
        "cover": ["{cover}落下盖住{a}", "{a}被{cover}盖住"],
        "uncover": ["{cover}从{a}上升起", "{cover}升起露出{a}"],
        "switch on": ["{a}亮了", "{a}被打开", "{a}亮起来"],
        "bite": ["{a}被咬了一口", "{a}被咬掉一块"],
        "fall": ["{a}从上面落下", "{a}从空中掉下来", "{a}掉到地上"],
        "knock over": ["{b}撞倒{a}", "{a}被{b}撞倒"],
        "push": ["{b}推动{a}", "{b}撞上并推着{a}", "{a}被{b}推动"],
        "collide": ["{b}和{a}相撞", "{b}和{a}撞在一起"],
    },
    "first": ["首先", "先是", "一开始"],
    "then": ["然后", "接着", "随后", "之后"],
    "lasting": {
        "on": ["{a}一直亮着", "{a}现在亮着"],
        "bitten": ["{a}缺了一口", "{a}留下了咬痕"],
        "down": ["{a}倒在地上不再起来", "{a}一直倒着"],
        "covered": ["{a}现在被盖着", "{a}留在罩子下面"],
    },
    "wall": {"grey": ["灰色的墙", "灰墙"], "brown": ["棕色的墙", "棕墙"]},
    "cover": ["灰色的罩子"],
    "there": ["{when}{where}有{list}", "{when}，{where}有{list}", "{where}，{when}，可以看到{list}"],
    "films": {
        "pan left": ["镜头向左摇", "镜头向左转"],
        "pan right": ["镜头向右摇", "镜头向右转"],
        "pan": ["镜头左右摇动"],
        "tilt up": ["镜头向上抬", "镜头向上仰"],
        "tilt down": ["镜头向下俯", "镜头向下低"],
        "tilt": ["镜头上下移动"],
        "rise": ["镜头升高", "镜头上升"],
        "follow": ["镜头跟着{a}", "镜头跟随{a}移动"],
    },
    "named": ["叫{name}的{a}"],
    "is who": ["{name}是{a}"],
    "words": ["那个", "那面", "一个", "一面", "一盏", "的", "和", "，", "。"],
}
