"""Why an image was not read, in Chinese: the replica says it in English, by these patterns."""

import re

from inference.ui.words import Language

CHINESE: dict[str, str] = {
    # the image
    "empty file": "空文件",
    "{size} bytes; at most {most}": "{size} 字节；最多 {most}",
    "more pixels than the {most} that are read": "像素数超过上限 {most}",
    "{width} x {height} pixels; at most {most} in all": "{width} × {height} 像素；总数最多 {most}",
    "not an image: {kinds} are read": "不是图片：可识别 {kinds}",
    "damaged {kind} image: {why}": "{kind} 图片已损坏：{why}",
    "damaged image: {why}": "图片已损坏：{why}",
    "an image without pixels": "图片没有像素",
    "this upload is no longer kept: upload it again": "上传的文件已清除：请重新上传",
    "fields: at most {count} names of at most {length} characters": (
        "字段：最多 {count} 个名称，每个最多 {length} 个字符"
    ),
    "the request is larger than {most} bytes": "请求超过 {most} 字节",
    # the replica
    "the model is loading": "模型正在加载",
    "draining: no new requests": "正在下线，不再接受新请求",
    "too many requests at once": "同时请求过多",
    "the queue is full": "队列已满",
    "too many bytes are waiting to be read": "等待识别的数据过多",
    "online requests took all the time": "在线请求占满了时间",
    "not read before the deadline": "未能在时限内识别完",
    "not enough memory at the moment": "内存暂时不足",
    "reading failed; the replica's log says why": "识别失败；原因见副本日志",
    "not done after {seconds} s": "{seconds} 秒内未完成",
}


def _pattern(english: str) -> re.Pattern[str]:
    """A file's name may stand before it."""
    pieces = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+?)", re.escape(english))
    return re.compile(f"(?P<file>(?:.+: )?){pieces}", re.DOTALL)


_KNOWN = [(_pattern(english), chinese) for english, chinese in CHINESE.items()]


def told(reason: str, language: Language) -> str:
    """The reason in a language; what is not known here stays English."""
    if language == "zh":
        for pattern, chinese in _KNOWN:
            if found := pattern.fullmatch(reason):
                return f"{found['file']}{chinese.format(**found.groupdict())}"
    return reason
