"""Reasons in Chinese. Policies write them in English, clause by clause; a clause that is not known here stays so."""

import re

from orchestrator.dashboard.phrases import Phrases
from orchestrator.dashboard.words import PageWords

#: what a clause says -> the same in Chinese. A value whose name ends in `why` is a reason itself
CLAUSES: dict[str, str] = {
    # opening hours
    "{why} (held {state} until {at})": "{why}（手动保持{state}至 {at}）",
    "always open": "始终开放",
    "open until {at}": "开放至 {at}",
    "closed until {at}": "关闭至 {at}",
    "pre-warming, closed until {at}": "预热中，关闭至 {at}",
    "closed: no opening in sight": "关闭：没有后续开放时段",
    "taken down": "已下线",
    "{why}, who is up is kept for it": "{why}，已启动的机器为此保留",
    # load and target
    "no load": "没有负载",
    "no evidence of the load, hold": "没有负载记录，保持不变",
    "{rate} images/s": "每秒 {rate} 张",
    "{rate} images/s over {speed} a replica": "每秒 {rate} 张，单台每秒 {speed} 张",
    "{rate} images/s over {speed} a replica, as on past days": "每秒 {rate} 张（按往日同期），单台每秒 {speed} 张",
    "{rate} images/s, {count} waiting, throughput not measured": "每秒 {rate} 张，{count} 张排队，吞吐尚未实测",
    "{count} batch items are waiting": "{count} 个批处理项在等待",
    "{count} items due: {why}": "{count} 项待完成：{why}",
    "{count} waiting, hold": "{count} 张排队，保持不变",
    "nobody watched for a while, hold": "有一段时间没有记录，保持不变",
    "the target rose {count} min ago, hold": "{count} 分钟前刚扩容，保持不变",
    "the minimum is {count}": "最少 {count} 台",
    "the minimum is {count} ({why})": "最少 {count} 台（{why}）",
    "the maximum is {count}": "最多 {count} 台",
    # budgets
    "monthly budget {share} % spent: {step}": "本月预算已用 {share}%：{step}",
    "daily budget {share} % spent: {step}": "当日预算已用 {share}%：{step}",
    "the budget cannot count {count} h of unknown price": "有 {count} 小时价格未知，无法计入预算",
    # who leaves
    "surplus: the target is {count}": "多余：目标为 {count} 台",
    "surplus: at most {count} may be up": "多余：最多 {count} 台",
    "the provider takes it back at {at} UTC": "供应商将于 {at} UTC 回收",
    "the provider recommends to leave it": "供应商建议撤离",
    "the spec changed": "配置已更改",
    "a machine of one's own is free": "自有机器空闲",
    "a cheaper machine is to be had": "有更便宜的机器可用",
    "surplus: it makes room for the base on demand": "多余：为按需基数腾出位置",
    "surplus: it makes room for what is wanted instead": "多余：为更需要的机器腾出位置",
    "{why}, its replacement serves": "{why}，替换的机器已在服务",
    "no answer since {at} UTC": "自 {at} UTC 起没有应答",
    "not ready {count} s after its launch": "启动 {count} 秒后仍未就绪",
    "not drained within {count} s": "{count} 秒内未排空",
    "no longer listed: to be certain": "供应商已不再列出：确保终止",
    "somebody switched it off: it serves nobody, and its disk costs": "已被人停机：不再服务，磁盘仍计费",
    "drained": "已排空",
    "its replacement serves": "替换的机器已在服务",
    "more than the allocation wants": "超出分配",
    "spot replicas are in time": "竞价实例已及时就绪",
    # what is chosen
    "{count} replicas are missing and no offer can be taken now": "缺 {count} 台，目前没有可用报价",
    "{names} cannot be reached: held as it is, nothing is launched there": "{names} 无法连接：保持原状，不在其上启动",
    "not in this ledger, but ours by their tag: {names}": "带有本安装标签但不在账本中：{names}",
    "cheapest per image: {price} per 1,000": "单张最便宜：每千张 {price}",
    "cheapest per image within {late} s: {price} per 1,000": "{late} 秒以内单张最便宜：每千张 {price}",
    "{share} per image": "单张贵 {share}",
    "dearer per image": "单张更贵",
    "price unknown": "价格未知",
    "speed not measured": "速度未实测",
    "speed not measured: one may be tried": "速度未实测：可试用一台",
    "own machine, {why}": "自有机器，{why}",
    "p95 unknown, wanted {bound} s": "p95 未知，要求 {bound} 秒",
    "p95 {late} s, wanted {bound} s": "p95 {late} 秒，要求 {bound} 秒",
    "no rate from {other} to {currency}": "没有 {other} 到 {currency} 的汇率",
    "refused {count} times: left alone until {at} UTC": "被拒绝 {count} 次：{at} UTC 前暂不使用",
    "refused {count} times: {why}": "被拒绝 {count} 次：{why}",
    "refused 1 time: {why}": "被拒绝 1 次：{why}",
    "it took a machine back": "曾回收机器",
    "its provider recommends to leave it": "供应商建议撤离",
    "no load and a minimum of 0: nothing runs": "没有负载且最少 0 台：不运行",
    "the cheapest fleet of {count}: {price} an hour": "最便宜的 {count} 台组合：每小时 {price}",
    "the cheapest fleet that carries {rate} images/s at {share} use: {price} an hour": (
        "按 {share} 利用率承载每秒 {rate} 张的最便宜组合：每小时 {price}"
    ),
    "the cheapest fleet that carries {rate} images/s within {late} s at {share} use: {price} an hour": (
        "按 {share} 利用率、{late} 秒以内承载每秒 {rate} 张的最便宜组合：每小时 {price}"
    ),
    "{count} of them run already": "其中 {count} 台已在运行",
    "no other GPU or terms can carry it": "没有其他 GPU 或计费方式能承载",
    "nothing to choose ({why})": "没有可选（{why}）",
    "no offers": "没有报价",
    "{gpu}: a machine of one's own, paid for anyway": "{gpu}：自有机器，费用已付",
    # spot and batch
    "spot: {count} losses per hour expected": "竞价实例：预计每小时中断 {count} 次",
    "on-demand: {count} spot replicas are missing": "按需：缺 {count} 台竞价实例",
    "on-demand: {count} spot replicas have become dearer than it": "按需：{count} 台竞价实例已比按需更贵",
    "on-demand: {count} spot replicas are in pools too young to be trusted": (
        "按需：{count} 台竞价实例所在池尚未经受考验"
    ),
    "spot: {count} losses per hour expected, {share} of the price on demand": (
        "竞价实例：预计每小时中断 {count} 次，价格为按需的 {share}"
    ),
    "on-demand: the base, or the guard against losing a whole pool": "按需：基本份额，或防止整池丢失",
    "{name} is left alone until {at} UTC": "{name}：{at} UTC 前暂不使用",
    "makes room for the base on demand: without surge none is left beside it": (
        "为按需的基本份额腾出位置：没有富余，无法并存"
    ),
    "makes room for what is wanted instead: without surge none is left beside it": (
        "为更需要的机器腾出位置：没有富余，无法并存"
    ),
    "makes room to try spot: without surge none is left beside it": "为竞价实例腾出位置：没有富余，无法并存",
    "{share} an hour, without {gpu} ({terms})": "每小时 {share}，不用 {gpu}（{terms}）",
    "{count} machines are in time": "{count} 台可按时完成",
    "the work is done": "工作已完成",
    "on-demand: anything else could miss the deadline": "按需：否则可能错过截止时间",
    "nothing more is to be had on demand, so spot for what is missing": "按需已无可用，缺口用竞价实例补足",
    "waiting for spot is worth more than the time: {hours} h of slack": "等待竞价实例更划算：余量 {hours} 小时",
    "on-demand: no spot machine is worth its start, {hours} h of slack": (
        "按需：没有值得启动的竞价实例，余量 {hours} 小时"
    ),
    "on-demand: no spot machine, {hours} h of slack": "按需：没有竞价实例，余量 {hours} 小时",
    "spot in {zone}, there for {age} h: {hours} h of slack": ("竞价实例 {zone}，已可用 {age} 小时：余量 {hours} 小时"),
    "spot in {zone}, which is as good as another": "竞价实例 {zone}，与其他可用区相当",
    "more than the job needs": "超出任务所需",
    "it goes on elsewhere: {why}": "在别处继续：{why}",
    "{name}: {why}": "{name}：{why}",
}
PHRASES = Phrases(CLAUSES)
DAYS = {"Mon": "周一", "Tue": "周二", "Wed": "周三", "Thu": "周四", "Fri": "周五", "Sat": "周六", "Sun": "周日"}


def reason(text: str, say: PageWords) -> str:
    """What a policy said, in the page's language."""
    if say.language != "zh":
        return text
    return "；".join(_clause(one, say) for one in re.split(r"; (?![^(]*\))", text))


def _clause(text: str, say: PageWords) -> str:
    found = PHRASES.find(text)
    if found is None:
        return text
    chinese, values = found
    return chinese.format(**{name: _value(name, value, say) for name, value in values.items()})


def _value(name: str, value: str, say: PageWords) -> str:
    if name == "why":
        return reason(value, say)
    if name in ("state", "step", "terms"):
        return say.word(value)
    return re.sub(rf"\b({'|'.join(DAYS)}) (\d{{4}}-\d\d-\d\d)", lambda day: f"{day[2]} {DAYS[day[1]]}", value)
