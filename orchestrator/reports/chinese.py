"""The Chinese of what reports say, by the English templates."""

CHINESE: dict[str, str] = {
    # headings
    "{month}": "账期 {month}",
    "until {at}": "截至 {at}",
    "an estimate, not an invoice": "本报告为估算，并非账单",
    "SIMULATED: no machine ran and no money was spent.": "模拟数据：没有机器运行，也没有实际花费。",
    "prices": "价格来源",
    "{source} (newest {age} old)": "{source}（最新价格距今 {age}）",
    "{source} (undated)": "{source}（日期不明）",
    "{source} (newest taken in afterwards)": "{source}（最新价格为事后录入）",
    "{count} days": "{count} 天",
    "{count} h": "{count} 小时",
    "{count} min": "{count} 分钟",
    # the table
    "month": "账期",
    "deployment": "部署",
    "terms": "计费方式",
    "hours": "小时",
    "busy": "忙碌",
    "per hour": "每小时",
    "list": "原价",
    "discount": "优惠",
    "cost": "应付",
    "images": "图片",
    "per 1,000": "每千张",
    "total": "合计",
    "unknown": "未知",
    "spot": "竞价实例",
    "on_demand": "按需",
    "on-demand": "按需",
    "owned": "自有",
    # below it
    "+ unknown: {hours} hours ran at a price that nobody knows.": "+ 未知：{hours} 小时的价格不明。",
    "+ {amount}, not added: no rate from {other} to {code} in a spec.": (
        "+ {amount}，未计入合计：配置中没有 {other} 到 {code} 的汇率。"
    ),
    "{host}, {deployment}: {hours} h, {cost}, {images} images": (
        "{host}（{deployment}）：{hours} 小时，{cost}，{images} 张图片"
    ),
    "this machine": "本机",
    "last month, {month}: {whole}; days 1 to {days}: {before}, now {now} ({change})": (
        "环比 {month}：全月 {whole}；前 {days} 天 {before}，本月 {now}（{change}）"
    ),
    "a year ago, {month}: {whole}; days 1 to {days}: {before}, now {now} ({change})": (
        "同比 {month}：全月 {whole}；前 {days} 天 {before}，本月 {now}（{change}）"
    ),
    "At this pace, at the month's end: {amount}": "按目前进度，月末预计：{amount}",
    "At this pace of what is known, at the month's end: {amount}": "按目前进度（仅含已知部分），月末预计：{amount}",
    " (8 of 10: {low} to {high})": "（八成可能：{low} 至 {high}）",
    "{share} of {name}'s {limit}": "{name} 预算 {limit} 已用 {share}",
    ", {step} is reached": "，已触发{step}",
    ", {share} at the month's end": "，月末预计 {share}",
    "warn": "提醒",
    "spot-only": "仅竞价",
    "minimum": "最小规模",
    "stop": "停止",
    "disk": "磁盘",
    "address": "公网地址",
    "compute": "计算",
    "Of it beside machine hours: {parts}": "其中机时以外：{parts}",
    "Of the hours, {hours} were spent starting up.": "其中 {hours} 小时用于启动。",
    "{deployment}, {gpu} {terms}: {count} lost, {replaced} replaced; that took {minutes} min and {cost}": (
        "{deployment}（{gpu} {terms}）：中断 {count} 次，补位 {replaced} 台；补位启动共 {minutes} 分钟，花费 {cost}"
    ),
    "No evidence for {minutes} minutes: replicas were up and no daemon looked.": (
        "有 {minutes} 分钟没有记录：副本在运行，但守护进程不在。"
    ),
    "By day": "按天",
    # savings
    "Saved against {baseline}:": "相对基准（{baseline}）的节省：",
    "{replicas} x {gpu} {terms}, {hours}": "{replicas} 台 {gpu} {terms}，{hours}",
    "always on": "全天运行",
    "while open": "仅开放时段",
    "baseline": "基准",
    "closed hours": "关闭时段",
    "scaling": "弹性伸缩",
    "GPU ({basis})": "选卡（{basis}）",
    "same hours": "按相同机时",
    "same images": "按相同图片数",
    "mixed": "混合口径",
    "paid": "实付",
    "saved": "节省",
    "spent more": "多花",
    # notes
    "note": "说明",
    "no data: nothing ran in {month}": "没有数据：{month} 没有机器运行",
    "the month is that of {zone}; other deployments keep {others}": "账期按 {zone} 计；其他部署使用 {others}",
    "reported in {currency}; other specs speak {others}": "以 {currency} 计；其他配置使用 {others}",
    "converted at 1 {code} = {rate} {currency} ({as_of}, {source})": (
        "汇率：1 {code} = {rate} {currency}（{as_of}，{source}）"
    ),
    "{name}: its spec cannot be read ({why})": "{name}：配置无法读取（{why}）",
    "{name}: no baseline in its spec, so its savings are not measured": "{name}：配置中没有基准，因此不计算节省",
    "{name}: no price is known for the baseline {gpu} {terms} in {currency}, so the savings are unknown": (
        "{name}：基准 {gpu} {terms} 没有已知的 {currency} 价格，因此节省未知"
    ),
    "{name}: a price paid is unknown, so the savings are unknown": "{name}：有一段价格未知，因此节省未知",
    "{name} was busy: its GPU is compared by same images": "{name} 较忙：选卡按相同图片数比较",
    # alerts
    "{count} alerts": "{count} 条提醒",
    "the daemon's tick failed: {errors}": "守护进程检查失败：{errors}",
    "nothing serves, {target} wanted: {count} offers refuse ({why})": (
        "没有副本在服务，目标 {target} 台：{count} 个报价被拒绝（{why}）"
    ),
    "no longer listed by their provider, and perhaps still paid: {names}": "供应商不再列出，可能仍在计费：{names}",
    "{hours} machine hours of this month have no known price; a budget cannot count them": (
        "本月有 {hours} 机时价格未知，无法计入预算"
    ),
    "{share} of the {limit} of {period} are spent: {step}": "{period} 预算 {limit} 已用 {share}：{step}",
    "{share} of the {limit} of {period} are spent; at this pace it will be {end} at the month's end: {step}": (
        "{period} 预算 {limit} 已用 {share}；按目前进度，月末将达 {end}：{step}"
    ),
    # the page
    "halve: month report {month}": "halve 月度账单 {month}",
    "Cost by day": "每日费用",
    "Cost by deployment": "各部署费用",
    "From the baseline to what was paid": "从基准到实付",
    "Interruptions and gaps": "中断与缺口",
    "Budget": "预算",
    "last month": "环比",
    "a year ago": "同比",
    "forecast": "月末预计",
    "Figures in {currency}; times of {zone}.": "金额单位 {currency}；时区 {zone}。",
}
