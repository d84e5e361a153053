"""Ordinary words, and the names composed of them, for the pretraining text. Read next: `facts`."""

from __future__ import annotations

import random

from corpus import words

SURNAMES = (
    "赵钱孙李周吴郑王冯陈蒋沈韩杨朱秦许何吕张孔曹严华金魏陶姜谢邹柏苏潘葛范彭鲁韦马方袁柳史唐罗薛"
    "雷贺倪汤"
)
GIVEN = (
    "明华秀英伟芳娜敏静丽强磊军洋勇艳杰娟涛超霞平刚桂兰玉春梅飞红云山海林江河月星雨雪晨光文武德仁"
    "义礼智信安康宁福寿喜"
)
PLACE_HEADS = (
    "青白黄红黑长短高平大小新老东西南北上下石木水土金银铜铁云龙凤虎马牛羊鹤松竹梅柳桃杏桑麻沙泥清"
    "浊温寒双三五七九"
)
PLACE_MIDDLES = "山河江湖溪泉岭坡谷原岗峰岩沟塘堰渡津口门关桥亭台寺塔井田园林洲岛滩湾"
PLACE_TAILS = "镇村县市乡城街巷港屯"

JOBS = words.table(
    "木匠 铁匠 石匠 裁缝 厨师 医生 护士 教师 画家 歌手 司机 渔夫 农夫 猎人 牧人 花匠 邮差 会计 "
    "律师 记者 导游 船长 军人 警察 店主 掌柜 学徒 工人 技师 秘书 编辑 演员 琴师 棋手 药师 矿工 "
    "瓦工 电工 钳工 焊工"
)
RANKS = words.table("老 小 大 首席 见习 退休 兼职 临时 资深 年轻 乡村 城里 有名的 普通")
ADJECTIVES = words.table(
    "红色 白色 黑色 蓝色 绿色 黄色 旧 新 大 小 长 短 厚 薄 软 硬 轻 重 热 冷 甜 酸 苦 咸 干 湿 圆 "
    "方 尖 平 便宜 昂贵 普通 特制 进口 国产 手工 祖传 半价 成套 加厚 折叠"
)
GOODS = words.table(
    "茶壶 饭碗 筷子 盘子 桌子 椅子 柜子 木床 被子 枕头 毛巾 镜子 梳子 剪刀 菜刀 铁锅 蒸笼 水桶 "
    "扫帚 灯笼 蜡烛 火柴 雨伞 草帽 布鞋 皮靴 大衣 衬衫 裤子 围巾 手套 书包 钢笔 墨水 信纸 算盘 "
    "风筝 竹笛 二胡 铜锣 锄头 镰刀 犁 磨盘 渔网 马鞍 车轮 船桨 绳子 麻袋 米酒 酱油 香醋 花椒 蜂蜜 "
    "豆腐 面粉 红枣 核桃 咸鱼"
)
FOODS = words.table(
    "白菜 萝卜 土豆 番茄 黄瓜 茄子 豆角 南瓜 莲藕 竹笋 蘑菇 木耳 鸡蛋 牛肉 羊肉 猪肉 鸡肉 鱼片 "
    "虾仁 螃蟹 青草 树叶 松子 谷粒 虫子 蚯蚓 果子 花蜜 嫩芽 苔藓"
)
DISHES = words.table("汤 饼 羹 粥 卷 丸 糕 面 煲 沙拉 拼盘 火锅 饺子 馒头")
ANIMALS = words.table(
    "猫 狗 马 牛 羊 猪 鸡 鸭 鹅 兔子 松鼠 狐狸 老虎 狮子 大象 猴子 熊 狼 鹿 骆驼 老鼠 刺猬 乌龟 "
    "青蛙 蛇 燕子 麻雀 喜鹊 乌鸦 老鹰 鹦鹉 鸽子 天鹅 鲤鱼 金鱼 蜜蜂 蝴蝶 蚂蚁 蜻蜓 蜘蛛"
)
HOMES = words.table(
    "树洞 河边 山洞 草丛 屋檐下 池塘 沙地 雪原 竹林 岩缝 谷仓 井底 湖心 海岸 花园 田埂"
)
ADVERBS = words.table(
    "很 不太 更加 有点 非常 一直 忽然 总是 偶尔 渐渐 十分 稍稍 依旧 格外 向来 再次"
)
STATES = words.table(
    "高兴 难过 疲倦 安静 吵闹 干净 脏 忙 闲 饿 渴 困 生气 害怕 聪明 勇敢 懒 勤快 富有 贫穷 健康 "
    "虚弱 拥挤 冷清 明亮 昏暗 潮湿 干燥 温暖 寒冷 晴朗 多云 下雨 下雪 刮风 起雾 打雷 结冰 好用 "
    "难用 好吃 难吃 畅销 缺货"
)
SHOPS = words.table("铺 店 行 坊 堂 楼 斋 馆 号 庄")
BOOKS = words.table("记 传 集 谱 录 志 经 诗 图说 入门 大全 故事")
UNITS = words.table("个 件 把 张 套 只 箱 袋 斤 捆 双 条")
NUMBERS = words.table("一 二 三 四 五 六 七 八 九 十 两 几 百 千 万 半")
TIMES = words.table(
    "春天 夏天 秋天 冬天 早上 中午 下午 晚上 昨天 今天 明天 前年 去年 今年 周一 周二 周三 周末 "
    "月初 月底"
)
COMMON = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到地于出就分对会可主发年动同工也能下过子说产种面方后多定行学所民得十三"
    "之进着等部度家里如水化高自二理起小物现实量都两体当使点从业本去把性好应开它合还因由其然前外天日那事平相全表间样与关各新线"
    "内数正心反明看原又么利比或但气第向道此变条只没问意建月无系很情者最想已并提直题程果料位常文总次品活特件长求老头路级少山接"
    "知将见计别她手角期根运几西干做先回则取处南给色光门治北造热七海口东压世金增油受什六共清己美再转单风白教花带车真每目走积示"
    "斗八离名确信马话米空况今土许步记需段林叫且越装影算低音书布复容难近千周备半列般石便酸历市何除称准号写毛快查型王按格层片始"
    "却专京识圆包火住满照红细引听该铁价飞读抽库班登随归修检诊迹疑拆冷司较测录例洗拿怀换停仍负荷未完累公里驶既障括故维组"
    "具厂场属映更经而认象"
)
"""Characters that codes are made of, beside those of the workshop morphemes."""

_CHARACTERS = sorted({*COMMON, *"".join(words.MORPHEMES)})
_LATIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@&%"


def code(rng: random.Random) -> str:
    """A word that means nothing: two to seven characters, now and then with letters or digits."""
    characters = rng.choices(
        _CHARACTERS, k=rng.choices((2, 3, 4, 5, 6, 7), weights=(3, 5, 6, 5, 3, 1))[0]
    )
    if rng.random() < 0.12:
        characters[rng.randrange(len(characters))] = rng.choice(_LATIN)
    return "".join(characters)


def person(rng: random.Random) -> str:
    """A person's name."""
    return rng.choice(SURNAMES) + "".join(rng.choices(GIVEN, k=rng.choice((1, 2, 2))))


def place(rng: random.Random) -> str:
    """A place's name."""
    name = rng.choice(PLACE_HEADS) + rng.choice(PLACE_MIDDLES)
    return name + (rng.choice(PLACE_TAILS) if rng.random() < 0.8 else "")


def job(rng: random.Random) -> str:
    """A job, at times with a rank."""
    return (rng.choice(RANKS) if rng.random() < 0.4 else "") + rng.choice(JOBS)


def goods(rng: random.Random) -> str:
    """A thing that a shop sells: a household thing, a machine part or a tool."""
    noun = rng.choice(GOODS) if rng.random() < 0.4 else rng.choice(words.MORPHEMES)
    return (rng.choice(ADJECTIVES) if rng.random() < 0.7 else "") + noun


def food(rng: random.Random) -> str:
    """Something to eat."""
    return (rng.choice(ADJECTIVES) if rng.random() < 0.3 else "") + rng.choice(FOODS)


def dish(rng: random.Random) -> str:
    """Something cooked."""
    return rng.choice(FOODS) + rng.choice(DISHES)


def animal(rng: random.Random) -> str:
    """An animal, at times with a colour or a size."""
    return (rng.choice(ADJECTIVES[:12]) if rng.random() < 0.5 else "") + rng.choice(ANIMALS)


def home(rng: random.Random) -> str:
    """Where an animal lives."""
    return rng.choice(HOMES)


def state(rng: random.Random) -> str:
    """How somebody or something is."""
    noun = rng.choice(STATES) if rng.random() < 0.7 else rng.choice(words.MORPHEMES)
    return rng.choice(ADVERBS) + noun


def shop(rng: random.Random) -> str:
    """A shop's name."""
    return "".join(rng.choices(GIVEN, k=2)) + rng.choice(SHOPS)


def book(rng: random.Random) -> str:
    """A book's title."""
    return rng.choice((place, animal, job, goods))(rng) + rng.choice(BOOKS)


def amount(rng: random.Random) -> str:
    """A number with a unit."""
    number = str(rng.randrange(2, 300)) if rng.random() < 0.5 else rng.choice(NUMBERS)
    return number + rng.choice(UNITS)


def time(rng: random.Random) -> str:
    """A time of the day, the week or the year."""
    return rng.choice(TIMES)
