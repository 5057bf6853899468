"""What `harrier-edge bench` embeds: notes and questions in several scripts, written for this."""

from __future__ import annotations

DOCUMENTS = (
    "The kettle in the workshop trips the breaker whenever the bandsaw runs as well. We moved it "
    "to the circuit of the office in March, and since then nothing has gone dark. Should it "
    "happen again, look first at the old extension cord behind the shelf: its plug gets warm, "
    "and the spare one hangs beside the first-aid box.",
    "Am Samstag räumen wir den Dachboden aus. Die Kisten mit den Schulheften bleiben, alles "
    "Übrige kommt zum Wertstoffhof, der bis zwei Uhr geöffnet hat. Wer einen Anhänger leihen "
    "kann, meldet sich bitte bei Jutta. Das alte Klavier holt der Händler in der Woche darauf ab; "
    "er braucht dafür einen freien Parkplatz vor dem Tor.",
    "def moving_average(values, width):\n"
    '    """Mean of each window; the first windows are shorter."""\n'
    "    total, means = 0.0, []\n"
    "    for i, value in enumerate(values):\n"
    "        total += value\n"
    "        if i >= width:\n"
    "            total -= values[i - width]\n"
    "        means.append(total / min(i + 1, width))\n"
    "    return means\n",
    "Перед первой поездкой после зимы проверьте цепь и тормоза велосипеда. Если колодки стёрлись "
    "до металла, их пора менять, а цепь достаточно промыть и смазать. Шины накачивают до давления, "
    "указанного на боковине. Старый насос теряет воздух у клапана, поэтому лучше взять новый, он "
    "лежит в синем ящике под верстаком.",
    "تفتح المكتبة أبوابها من التاسعة صباحًا حتى الثامنة مساءً، وتغلق يوم الجمعة. يمكن لكل قارئ أن "
    "يستعير خمسة كتب لمدة ثلاثة أسابيع، وأن يجدد الإعارة مرة واحدة عبر الهاتف. أما المخطوطات "
    "القديمة فتُقرأ في القاعة الهادئة في الطابق الثاني، بعد حجز موعد مع أمينة المكتبة.",
    "बारिश शुरू होने से पहले छत की नालियाँ साफ़ कर लें, नहीं तो पानी दीवार के साथ नीचे उतरता है। पिछले साल "
    "रसोई की दीवार में इसी कारण सीलन आई थी। सीढ़ी पड़ोसी के गोदाम में रखी है और चाबी मीना के पास है। काम में "
    "दो घंटे लगते हैं, और पत्तों को बगीचे की खाद में डाल दिया जाता है।",
    "周末我们去爬城北的小山。早上七点在地铁站出口集合，走东边的石阶上山，大约两个小时到达山顶的凉亭。"
    "山上没有商店，请每人带够水和午饭。如果下雨，就改到下个星期天。下山以后，小林会带大家去河边"
    "那家老面馆，她已经订好了一张八个人的桌子。",
    "味噌汁の出汁は、前の晩に昆布を水に浸しておくと楽です。朝になったら弱火にかけ、沸騰する直前に昆布を"
    "取り出し、かつお節を一つかみ入れて火を止めます。二分ほど待ってからこし、豆腐とわかめを加えます。"
    "味噌は最後に溶き、煮立たせないように気をつけてください。",
    "어제 서버의 디스크가 가득 차서 밤새 백업이 실패했습니다. 원인은 삭제되지 않은 오래된 로그 "
    "파일이었고, 보관 기간을 삼십 일에서 칠 일로 줄였습니다. 다음 주부터는 남은 공간이 십 퍼센트 "
    "아래로 내려가면 담당자에게 메시지가 갑니다. 같은 일이 또 생기면 운영 노트의 "
    "세 번째 항목을 보십시오.",
    "El huerto da más tomates si se riega poco y por la mañana. En julio quitamos los brotes que "
    "nacen entre el tallo y las hojas, y atamos cada planta a su caña con cuerda suave. Cuando "
    "aparecen manchas amarillas, casi siempre falta magnesio; un puñado de compost maduro suele "
    "bastar. Las semillas del año pasado están en el tarro verde.",
)

QUERIES = (
    "why does the power go out in the workshop",
    "Wann wird das Klavier abgeholt?",
    "python sliding window mean",
    "как подготовить велосипед к весне",
    "كم كتابًا يمكنني أن أستعير",
    "दीवार में सीलन क्यों आती है",
    "爬山在哪里集合",
    "味噌汁の出汁の取り方",
    "백업이 실패한 원인",
    "cuándo regar los tomates",
)
