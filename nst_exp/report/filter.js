// The language of filters: filter.py documents its grammar, and has the same methods under the same names.

/** Tell which rows ({values, text}) meet a condition; throws an Error with the reason if it cannot be understood. */
function matching(condition, rows) {
  if (!condition.trim()) return rows.map(() => true);
  const met = new FilterParser(condition, rows).parse();
  return rows.map(met);
}

const TOKEN = new RegExp(
  "\\s*(?:(?<number>(?:[0-9]+\\.?[0-9]*|\\.[0-9]+)(?:[eE][+\\-]?[0-9]+)?(?![\\p{L}\\p{N}_.]))"
  + "|(?<text>'(?:[^'\\\\]|\\\\.)*'|\"(?:[^\"\\\\]|\\\\.)*\")"
  + "|(?<quoted>`[^`]*`)"
  + "|(?<name>[\\p{L}\\p{N}_][\\p{L}\\p{N}_.]*)"
  + "|(?<sign><=|>=|==|!=|&&|\\|\\||[<>=!~&|,()\\[\\]+*/\\-])"
  + "|(?<end>$))", "suy");
const WORDS = ["and", "or", "not", "in"];
const SAME = { and: "&", "&&": "&", ",": "&", or: "|", "||": "|", not: "!", "~": "!", "=": "==" };
const COMPARISONS = ["<", "<=", ">", ">=", "==", "!=", "in"];
const ORDERS = { "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b };
const SUMS = { "+": (a, b) => a + b, "-": (a, b) => a - b, "*": (a, b) => a * b, "/": (a, b) => a / b };
const CONSTANTS = new Map([["true", true], ["false", false], ["null", null], ["none", null]]);

function tokensOf(source) {
  const tokens = [];
  TOKEN.lastIndex = 0;
  while (tokens.at(-1)?.kind !== "end") {
    const place = TOKEN.lastIndex, found = TOKEN.exec(source);
    if (found === null) {
      const rest = source.slice(place).trim();
      throw new Error("'\"`".includes(rest[0]) ? `the quote is never closed: ${rest}` : `'${rest}' cannot be understood`);
    }
    let [kind, value] = Object.entries(found.groups).find((group) => group[1] !== undefined);
    const end = TOKEN.lastIndex, start = end - value.length;
    if (kind === "text") value = value.slice(1, -1).replace(/\\(.)/gs, "$1");
    else if (kind === "quoted") value = value.slice(1, -1);
    else if (kind === "sign" || WORDS.includes(value.toLowerCase())) {
      kind = "sign";
      value = SAME[value.toLowerCase()] ?? value.toLowerCase();
    }
    tokens.push({ kind, value, start, end });
  }
  return tokens;
}

const partOf = (find, written, kind = "value", word = "", members = []) => ({ find, written, kind, word, members });

class FilterParser {
  constructor(source, rows) {
    this.source = source;
    this.rows = rows;
    this.names = [...new Set(rows.flatMap((row) => Object.keys(row.values)))];
    this.tokens = tokensOf(source);
    this.place = 0;
  }

  parse() {
    const part = this.either();
    if (this.token.kind !== "end") throw new Error(`'${this.rest()}' cannot follow '${this.before()}'`);
    return conditionOf(part);
  }

  either() {
    const start = this.token.start, parts = [this.all()];
    while (this.take("|")) parts.push(this.all());
    if (parts.length === 1) return parts[0];
    const conditions = parts.map(conditionOf);
    return partOf((row) => conditions.some((met) => met(row)), this.since(start));
  }

  all() {
    const start = this.token.start, parts = [this.negation()];
    while (this.take("&") || this.beginsCondition()) parts.push(this.negation());
    if (parts.length === 1) return parts[0];
    const conditions = parts.map(conditionOf);
    return partOf((row) => conditions.every((met) => met(row)), this.since(start));
  }

  beginsCondition() {
    const { kind, value } = this.token;
    return ["number", "text", "quoted", "name"].includes(kind) || value === "(" || value === "!";
  }

  negation() {
    const start = this.token.start;
    if (!this.take("!")) return this.comparison();
    const met = conditionOf(this.negation());
    return partOf((row) => !met(row), this.since(start));
  }

  comparison() {
    const start = this.token.start, conditions = [];
    let left = this.sum();
    for (let sign = this.comparisonSign(); sign; sign = this.comparisonSign()) {
      const right = this.list(sign) ?? this.sum();
      conditions.push(this.compared(left, sign, right));
      left = right;
    }
    if (!conditions.length) return left;
    return partOf((row) => conditions.every((met) => met(row)), this.since(start));
  }

  comparisonSign() {
    if (this.token.value === "!" && this.tokens[this.place + 1].value === "in") {
      this.place += 2;
      return "not in";
    }
    return COMPARISONS.find((sign) => this.take(sign));
  }

  compared(left, sign, right) {
    this.checkKnown(left);
    if (sign in ORDERS) {
      this.checkKnown(right);
      return (row) => isOrdered(left, right, sign, row);
    }
    let found;
    if (right.kind === "list") {
      const members = right.members.map((member) => this.asValue(member, left));
      found = (row) => members.some((member) => isEqual(left.find(row), member.find(row)));
    } else if (sign === "==" || sign === "!=") {
      const other = this.asValue(right, left);
      found = (row) => isEqual(left.find(row), other.find(row));
    } else if (right.kind === "number") {
      throw new Error(`${sign} needs a list, such as [1, 2], or a text: found ${right.written}`);
    } else {
      this.checkKnown(right);
      found = (row) => contains(right.find(row), left.find(row));
    }
    return sign === "!=" || sign === "not in" ? (row) => !found(row) : found;
  }

  asValue(part, left) {
    if (part.kind !== "word") return part;
    const values = left.kind === "name" ? [...new Set(this.rows.map((row) => row.values[left.word]))] : [];
    if (values.includes(part.word)) return part;
    const texts = values.filter((value) => typeof value === "string");
    if (!texts.length) this.checkKnown(part);
    const shown = texts.slice(0, 8).join(", ") + (texts.length > 8 ? ", ..." : "");
    throw new Error(`${left.written} is '${part.word}' in no run; its values are ${shown}`);
  }

  list(sign) {
    const { start, kind, value } = this.token, isRound = sign.endsWith("in") && value === "(";
    if (kind !== "sign" || (!isRound && value !== "[")) return null;
    if (sign in ORDERS) throw new Error(`${sign} cannot compare with a list`);
    this.place += 1;
    const members = [this.factor()];
    while (this.take("&")) members.push(this.factor());
    this.expect(isRound ? ")" : "]");
    return partOf(() => null, this.since(start), "list", "", members);
  }

  sum() { return this.chain(["+", "-"], () => this.product()); }

  product() { return this.chain(["*", "/"], () => this.factor()); }

  chain(signs, part) {
    const start = this.token.start, next = () => signs.find((sign) => this.take(sign));
    let left = part();
    for (let sign = next(); sign; sign = next()) left = this.computed(left, sign, part(), start);
    return left;
  }

  computed(left, sign, right, start) {
    this.checkKnown(left);
    this.checkKnown(right);
    return partOf((row) => resultOf(left, sign, right, row), this.since(start));
  }

  factor() {
    const token = this.token;
    if (this.take("-")) return this.computed(partOf(() => 0, "0"), "-", this.factor(), token.start);
    if (this.take("+")) return this.factor();
    if (this.take("(")) {
      const inner = this.either();
      this.expect(")");
      return { ...inner, written: this.since(token.start) };
    }
    if (token.kind === "sign" || token.kind === "end") {
      throw new Error(`a name, number or text is missing ${token.kind === "sign" ? `before '${this.rest()}'` : `after '${this.before()}'`}`);
    }
    this.place += 1;
    return this.atom(token, this.since(token.start));
  }

  atom(token, written) {
    const word = token.value, small = word.toLowerCase();
    if (token.kind === "number") return partOf(() => Number(word), written, "number", word);
    if (token.kind === "text") return partOf(() => word, written, "text", word);
    const similar = this.names.filter((name) => name.toLowerCase() === small);
    const found = this.names.includes(word) ? word : similar.length === 1 ? similar[0] : null;
    if (found !== null) return partOf((row) => row.values[found], written, "name", found);
    if (CONSTANTS.has(small)) return partOf(() => CONSTANTS.get(small), written);
    const part = partOf(() => word, written, "word", word);
    if (token.kind === "quoted") this.checkKnown(part);
    return part;
  }

  checkKnown(part) {
    if (part.kind !== "word") return;
    const near = nearest(part.word, this.names);
    throw new Error(`'${part.word}' is no key of these runs${near ? `; did you mean '${near}'?` : ""}`);
  }

  get token() { return this.tokens[this.place]; }

  take(value) {
    const found = this.token.kind === "sign" && this.token.value === value;
    if (found) this.place += 1;
    return found;
  }

  expect(value) {
    if (!this.take(value)) throw new Error(`'${value}' is missing after '${this.before()}'`);
  }

  since(start) { return this.source.slice(start, this.tokens[this.place - 1].end); }

  before() { return this.source.slice(0, this.token.start).trim(); }

  rest() { return this.source.slice(this.token.start).trim(); }
}

function conditionOf(part) {
  if (["word", "text", "number"].includes(part.kind)) {
    const wanted = part.word.toLowerCase();
    return (row) => row.text.toLowerCase().includes(wanted);
  }
  return (row) => {
    const value = part.find(row) ?? false, small = String(value).toLowerCase();
    if (typeof value === "boolean" || (typeof value === "string" && (small === "true" || small === "false"))) return small === "true";
    throw new Error(`${part.written} is no condition: compare it with something, as in style_weight > 0.1`);
  };
}

const isNull = (value) => value === undefined || value === null;
const isNullLike = (value) => isNull(value) || ["null", "none"].includes(String(value).toLowerCase());

function isEqual(left, right) {
  if (isNull(left) || isNull(right)) return isNullLike(left) && isNullLike(right);
  if (typeof left === "boolean" || typeof right === "boolean") return String(left).toLowerCase() === String(right).toLowerCase();
  return left === right;
}

const contains = (whole, part) => typeof whole === "string" && typeof part === "string" && whole.includes(part);

function isOrdered(left, right, sign, row) {
  const [a, b] = [left.find(row), right.find(row)];
  if (isNull(a) || isNull(b)) return false;
  if (typeof a !== typeof b || typeof a === "boolean") throw new Error(`${sign} cannot compare ${shownValue(left, a)} with ${shownValue(right, b)}`);
  return ORDERS[sign](a, b);
}

function resultOf(left, sign, right, row) {
  const values = [left.find(row), right.find(row)];
  if (values.some(isNull)) return null;
  [left, right].forEach((part, index) => {
    if (typeof values[index] !== "number") throw new Error(`${sign} needs numbers: found ${shownValue(part, values[index])}`);
  });
  return sign === "/" && values[1] === 0 ? null : SUMS[sign](...values);
}

function shownValue(part, value) {
  const text = typeof value === "string" ? `'${value}'` : String(value);
  return part.kind === "name" || part.kind === "value" ? `${part.written}, which is ${text},` : text;
}

/** Return the name with the most similar spelling, if any is similar enough. */
function nearest(word, names) {
  const measured = names.map((name) => ({ name, distance: editDistance(word.toLowerCase(), name.toLowerCase()) / Math.max(word.length, name.length) }));
  measured.sort((a, b) => a.distance - b.distance);
  return measured.length && measured[0].distance <= 0.4 ? measured[0].name : null;
}

function editDistance(a, b) {
  let above = [...b, ""].map((_, index) => index);
  for (let row = 1; row <= a.length; row += 1) {
    const line = [row];
    for (let column = 1; column <= b.length; column += 1) {
      const changed = above[column - 1] + (a[row - 1] === b[column - 1] ? 0 : 1);
      line.push(Math.min(changed, above[column] + 1, line[column - 1] + 1));
    }
    above = line;
  }
  return above[b.length];
}
