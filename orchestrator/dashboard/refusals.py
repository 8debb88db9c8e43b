"""Why something is not done, in Chinese. Refusals are written in English where they are raised, for terminals too;
those that a visitor of a page can meet are known here, and others stay English.
"""

from orchestrator.dashboard.phrases import Phrases
from orchestrator.dashboard.words import PageWords

REFUSALS: dict[str, str] = {
    # who may
    "that is not the token": "令牌不正确",
    "log in first": "请先登录",
    "this dashboard only shows; start it with --allow-actions": "此页面只读；用 --allow-actions 启动后可以操作",
    "that form is not from this page: open it again": "表单不是来自此页面：请重新打开",
    "Not Found": "未找到",
    "Method Not Allowed": "不支持这种请求",
    # deployments
    "there is no deployment yet": "还没有部署",
    "no deployment is called {name}": "没有名为 {name} 的部署",
    "no deployment is called {name}; there are: {others}": "没有名为 {name} 的部署；现有：{others}",
    "override: {state}: want open or closed": "手动开关：{state}：应为 open 或 closed",
    "override: say until when, such as --until 22:30": "手动开关：请写明到何时，例如 22:30",
    "override: --until {until} has passed already": "手动开关：{until} 已经过去",
    "override: --until {until} is more than a year away: change the schedule in the spec instead": (
        "手动开关：{until} 在一年以后：请改配置中的开放时段"
    ),
    'override: --until {until}: want HH:MM, or "YYYY-MM-DD HH:MM"': (
        "手动开关：{until}：应为 HH:MM，或 YYYY-MM-DD HH:MM"
    ),
    "drain: type the deployment's name, {name}, to say that you mean it": "下线：请输入部署名称 {name} 以确认",
    "{name}: there is no decision {number}; `halve why {same}` lists the last ones": (
        "{name}：没有决策 {number}；`halve why {same}` 列出最近的决策"
    ),
    # jobs
    "job {number}: there is none; `halve job list` shows those there are": (
        "任务 {number}：不存在；`halve job list` 列出现有任务"
    ),
    "job {number} has cost {cost} of its budget of {most}; name a larger one with --budget": (
        "任务 {number} 已花费 {cost}，预算 {most}；用 `halve job resume {number} --budget` 提高预算"
    ),
    "job {number} is {state}: nothing of it can be {wanted} any more": "任务 {number} {state}：不能再改为{wanted}",
    # what an address asks for
    "month {month}: want YYYY-MM, such as 2026-10": "月份 {month}：应为 YYYY-MM，例如 2026-10",
    "from: want a moment before to": "from：应早于 to",
    "{key}: want YYYY-MM, such as 2026-10": "{key}：应为 YYYY-MM，例如 2026-10",
    "{key}: want seconds since 1970": "{key}：应为 1970 年以来的秒数",
    "{key}: want a moment from {first} to {last}, in seconds since 1970": (
        "{key}：应为 {first} 至 {last} 年之间的时刻（1970 年以来的秒数）"
    ),
    "{key}: want {numbers} or {last}": "{key}：应为 {numbers} 或 {last}",
    "{key}: Field required": "{key}：缺少",
    "{key}: Input should be a valid integer, unable to parse string as an integer": "{key}：应为整数",
    "{key}: Input should be a valid boolean, unable to interpret input": "{key}：应为 1 或 0",
    "{key}: Input should be greater than or equal to {least}": "{key}：不能小于 {least}",
    "{key}: Input should be less than or equal to {most}": "{key}：不能大于 {most}",
    "{key}: Input should be {values} or {last}": "{key}：应为 {values} 或 {last}",
}
PHRASES = Phrases(REFUSALS)
#: what is put into a refusal and is a word of the pages itself
STATES = ("state", "wanted")


def refusal(text: str, say: PageWords) -> str:
    """A refusal in the page's language: the whole if it is known, else each of the faults that it lists."""
    if say.language != "zh":
        return text
    return _known(text, say) or "；".join(_known(one, say) or one for one in text.split("; "))


def _known(text: str, say: PageWords) -> str | None:
    found = PHRASES.find(text)
    if found is None:
        return None
    chinese, values = found
    return chinese.format(**{name: say.word(value) if name in STATES else value for name, value in values.items()})
