"""Morphemes of machines and workshops, from which `faults` composes entities.

Single morphemes are ordinary words and also stand in the pretraining text (`tasks`); of the
entities composed of them, those of the dev and test rows do not. Read next: `faults`.
"""


def table(text: str) -> tuple[str, ...]:
    """Give the words of `text`, which blanks separate."""
    return tuple(text.split())


POSITIONS = table(
    "左前 右前 左后 右后 左侧 右侧 主 副 前 后 上 下 内 外 中央 一级 二级 备用 高压 低压 顶部 底部 "
    "首段 末段 甲侧 乙侧"
)

MEDIA = table(
    "液压 燃油 冷却 制动 润滑 进气 排气 点火 转向 变速 传动 气动 送料 切削 卷绕 供水 回油 增压 "
    "照明 举升 行走 回转 铲斗 夹紧 喷墨 输纸 织布 抽纱 搅拌 破碎 筛分 打包 牵引 升降 通风 除尘 "
    "充电 起动 雨刮 悬挂 离合 差速 分度 伺服 主轴 滑台 刀架 尾座 炉膛 烘干 灌装 封口 称重 码垛 "
    "闸门 水轮"
)

PARTS = table(
    "泵 阀 管 轴承 齿轮 油缸 皮带 滤芯 接头 电机 支架 弹簧 密封圈 法兰 链条 线束 开关 继电器 滚轮 "
    "缸盖 活塞 连杆 凸轮 曲轴 飞轮 叶轮 叶片 导轨 丝杠 螺栓 垫片 衬套 销轴 拉杆 踏板 手柄 喷嘴 "
    "储罐 散热片 护罩 胶管 软轴 电刷 线圈 触点 保险丝 传感器 控制板 插头 转子 定子 托盘 挡板 顶针 "
    "卡盘 联轴节"
)

ASSEMBLIES = table("总成 机构 装置 单元 回路 模块 机组 组件 站 箱 柜 台")

MACHINES = table(
    "装载机 拖拉机 织布机 印刷机 车床 铣床 磨床 电梯 叉车 挖掘机 压路机 收割机 吊车 客车 货车 渡轮 "
    "机车 注塑机 冲床 锯床 搅拌车 水泵站 风机房 包装线 灌装线 纺纱机 抽油机 破碎机 洒水车 摊铺机"
)

FAULT_MANNERS = table(
    "轻微 严重 局部 间歇 持续 突然 反复 明显 早期 单边 表面 端部 根部 内壁 外缘 大面积 周期性 冷态 "
    "热态 偶发 渐进 重载 空转 接口 焊缝 边角"
)

FAULTS = table(
    "漏油 漏气 渗水 磨损 卡死 断裂 变形 松动 烧蚀 锈蚀 开裂 打滑 脱落 堵塞 老化 短路 断路 异响 "
    "抖动 发热 偏磨 弯曲 剥落 积碳 结垢 粘连 窜动 跑偏 拉伤 击穿 受潮 缺齿 错位 凹陷 起皱 褪色 "
    "熔化 冒烟 失灵 卡滞 漏电 泄压 胀裂 崩口"
)

QUANTITY_SCOPES = table(
    "出口 入口 怠速 空载 满载 额定 峰值 平均 瞬时 末端 中段 启动 停机 循环 单程 加热 夜间 换挡 "
    "爬坡 满幅"
)

QUANTITIES = table(
    "压力 转速 温度 扭矩 流量 电压 电流 功率 油耗 行程 频率 噪声 振幅 间隙 精度 张力 亮度 推力 "
    "湿度 液位 真空度 响应时间 节拍 产量"
)

QUANTITY_CHANGES = table("稍微 缓慢 急剧 长期 时常 成倍 逐步 整体 略有 大幅 频繁 短时 随机 同步")

QUANTITY_FAULTS = table(
    "偏低 偏高 波动 超限 下降 上升 滞后 失衡 漂移 不稳 归零 超调 衰减 失控 跳变 不足 过大 紊乱"
)

TOOL_KINDS = table(
    "数字 手持 便携 红外 超声 激光 台式 指针 电子 光学 磁性 防爆 车载 无线 双头 精密 机械 旋转 "
    "袖珍 标准"
)

TOOLS = table(
    "万用表 测厚仪 测温枪 压力表 探伤仪 听诊器 塞尺 千分尺 示波器 转速表 内窥镜 百分表 水平仪 卡尺 "
    "硬度计 测振仪 检漏仪 扭力扳手 流量计 兆欧表 粗糙度仪 油质仪 探针 试灯"
)

MORPHEMES = (
    POSITIONS
    + MEDIA
    + PARTS
    + ASSEMBLIES
    + MACHINES
    + FAULT_MANNERS
    + FAULTS
    + QUANTITY_SCOPES
    + QUANTITIES
    + QUANTITY_CHANGES
    + QUANTITY_FAULTS
    + TOOL_KINDS
    + TOOLS
)
"""Every morpheme above."""
