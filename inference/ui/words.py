"""What the page says, in English and in Chinese."""

from collections.abc import Mapping
from typing import Literal

Language = Literal["en", "zh"]

COOKIE = "halve_ui_language"
OURS = "halve_"  # begins our keys among Gradio's own
#: as Gradio's own texts name them
LOCALES: Mapping[Language, str] = {"en": "en", "zh": "zh-CN"}

_TEXTS: Mapping[str, tuple[str, str]] = {
    "title": ("Text from images", "图片文字识别"),
    "lead": (
        "Everything stays on this machine. The same results as POST /v1/ocr.",
        "图片不离开本机，结果与 POST /v1/ocr 相同。",
    ),
    "one": ("Image", "单图"),
    "many": ("Batch", "批量"),
    "export": ("ONNX", "导出"),
    "bench": ("Speed", "测速"),
    "image": ("Image: drop, paste or choose one", "图片：拖放、粘贴或选择"),
    "fields": ("Values wanted", "要提取的字段"),
    "fields_hint": ("e.g. 甲方, 签订日期 (empty: all that are found)", "例如：甲方，签订日期（留空则提取全部）"),
    "prompt": ("… or in a sentence", "……或用一句话说明"),
    "prompt_hint": ("Quote the names: 请只识别‘甲方’‘签订日期’", "字段名加引号：请只识别‘甲方’‘签订日期’"),
    "threshold": ("Least confidence", "最低置信度"),
    "threshold_hint": ("Hides boxes and lines read with less.", "低于此值的框和文字不显示。"),
    "read": ("Read", "识别"),
    "json": ("JSON", "JSON"),
    "nothing_yet": ("The text appears here, with its boxes.", "识别出的文字和位置会显示在这里。"),
    "no_image": ("Choose an image first.", "请先选择图片。"),
    "picture": ("The page, with a frame around each line", "页面，每行文字有框"),
    "text": ("Text", "文字"),
    "values": ("Values", "字段"),
    "copy": ("Copy", "复制"),
    "copied": ("Copied", "已复制"),
    "no_text": ("No text was found.", "没有找到文字。"),
    "not_found": ("not found", "未找到"),
    "read_in": (
        "{lines} lines in {milliseconds} ms · {width} × {height} · {model} · {precision}",
        "{lines} 行，{milliseconds} 毫秒 · {width} × {height} · {model} · {precision}",
    ),
    "files": ("Images", "图片"),
    "start": ("Read all", "全部识别"),
    "stop": ("Stop", "停止"),
    "progress": ("{done} of {all} images", "已完成 {done} / {all} 张"),
    "rate": ("{rate} images/s, {left} left", "每秒 {rate} 张，剩余 {left}"),
    "done": ("{read} read, {failed} failed in {seconds} s", "成功 {read} 张，失败 {failed} 张，用时 {seconds} 秒"),
    "gallery": ("Read so far", "已识别"),
    "file": ("File", "文件"),
    "lines": ("Lines", "行数"),
    "milliseconds": ("ms", "毫秒"),
    "outcome": ("Outcome", "结果"),
    "ok": ("read", "成功"),
    "archive": ("Download .zip", "下载 .zip"),
    "jsonl": ("Download .jsonl", "下载 .jsonl"),
    "too_many": ("{count} images; at most {most} at a time.", "{count} 张图片，一次最多 {most} 张。"),
    "behind": (
        "A batch waits for everybody who reads a single image.",
        "批量识别排在单图识别之后，不影响在线请求。",
    ),
    "export_lead": (
        "The detector of {model} as an ONNX file for any size and batch, compared with its source first.",
        "把 {model} 的检测网络导出为任意尺寸和批量的 ONNX 文件，先与原模型比对再提供下载。",
    ),
    "export_torch": (
        "{model} is a torch checkpoint: speed before is torch, after is ONNX Runtime.",
        "{model} 是 torch 模型：导出前用 torch 测速，导出后用 ONNX Runtime。",
    ),
    "export_onnx": (
        "{model} is ONNX already: what changes is the precision, and weights too small to matter, which some CPUs"
        " compute slowly. Before is the file as it was published.",
        "{model} 本来就是 ONNX：可改变精度，并清除拖慢部分 CPU 的极小权重。导出前指原始发布文件。",
    ),
    "export_card": (
        "{model} is a model card: its networks are the ONNX files named in it, nothing is left to export.",
        "{model} 是模型卡：其网络就是其中列出的 ONNX 文件，无需导出。",
    ),
    "export_needs": (
        "The export is compared with torch, which is not installed: pip install 'halve[torch]'",
        "导出需要与 torch 比对，但未安装：pip install 'halve[torch]'",
    ),
    "precision": ("Precision", "精度"),
    "size": ("Input size to measure at", "测速用的输入尺寸"),
    "export_start": ("Export and measure", "导出并测速"),
    "download": ("Download .onnx", "下载 .onnx"),
    "bytes": ("Size", "大小"),
    "difference": ("Largest difference", "最大误差"),
    "crossed": ("Pixels that change side", "判定改变的像素"),
    "before": ("Before", "导出前"),
    "after": ("After", "导出后"),
    "speed": ("Speed", "速度"),
    "bench_lead": (
        "This machine's row of the price and throughput table: pages drawn here, all workers busy, decoding included.",
        "本机在价格与吞吐表中的一行：使用自绘页面，所有工作线程满载，含解码。",
    ),
    "bench_start": ("Measure this machine", "测量本机"),
    "gpu": ("Device", "设备"),
    "provider": ("Runs on", "运行于"),
    "workers": ("Workers × threads", "工作线程 × 线程"),
    "images_per_second": ("Images/s", "张/秒"),
    "memory": ("Memory", "内存"),
    "versions": ("Versions", "版本"),
    "load": ("Machine's load before", "测量前的系统负载"),
    "load_of": ("{load} on {cores} cores", "{load}（{cores} 核）"),
    "working": ("Working…", "处理中……"),
    "busy": (
        "Requests are being read: a measurement would be wrong, and in their way. Try again when it is quiet.",
        "正在处理请求：此时测量既不准，又会影响请求。请稍后再试。",
    ),
    "refused": ("Refused", "被拒绝"),
    "refused_400": ("This cannot be read", "无法处理"),
    "refused_413": ("Too large", "过大"),
    "refused_415": ("Not an image", "不是图片"),
    "refused_429": ("Busy, try again in {seconds} s", "繁忙，请 {seconds} 秒后再试"),
    "refused_503": ("Not ready, try again in {seconds} s", "尚未就绪，请 {seconds} 秒后再试"),
    "refused_504": ("Too slow", "超时"),
}


def said(language: Language, key: str, **values: object) -> str:
    """The text, with the values put in."""
    return _TEXTS[key][0 if language == "en" else 1].format(**values)


def translations() -> dict[str, dict[str, str]]:
    """Locale -> key -> text; what needs values is not for Gradio, which puts none in."""
    return {
        LOCALES["en"]: {f"{OURS}{key}": texts[0] for key, texts in _TEXTS.items()},
        LOCALES["zh"]: {f"{OURS}{key}": texts[1] for key, texts in _TEXTS.items()},
    }


def refusal_key(status: int) -> str:
    key = f"refused_{status}"
    return key if key in _TEXTS else "refused"


def spoken(cookie: str | None, accepted: str | None) -> Language:
    """What the visitor chose, else what the browser prefers."""
    if cookie in ("en", "zh"):
        return "zh" if cookie == "zh" else "en"
    return "zh" if (accepted or "").strip().lower().startswith("zh") else "en"
