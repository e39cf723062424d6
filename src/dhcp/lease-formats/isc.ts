// ISC dhcpd's lease file (dhcpd.leases(5)): a log of `lease ADDRESS { … }` blocks among other declarations; the last of an address counts.
import { parseIp4, parseMac } from '../../addr.ts';
import { FOREVER, hexOfColons, leaseRow, rowSink, type LeaseRow, type ParsedLeases, type RowSink } from './rows.ts';

interface Token {
  /** A string's content, one character a byte; else the word or the mark itself. */
  readonly text: string;
  readonly quoted: boolean;
  readonly line: number;
  readonly column: number;
}

interface Statement {
  readonly words: readonly Token[];
  readonly block?: readonly Statement[];
}

class Broken extends Error {
  readonly token: { readonly line: number; readonly column: number };
  constructor(message: string, token: { readonly line: number; readonly column: number }) {
    super(message);
    this.token = token;
  }
}

export function readIsc(text: string, file: string): ParsedLeases {
  const sink = rowSink(file);
  try {
    const tokens = tokensOf(text);
    for (let next = 0; next < tokens.length; ) {
      const { statement, end } = statementAt(tokens, next);
      next = end;
      // IPv6 associations, failover states, hosts and groups that OMAPI made: not leases of ours.
      if (statement.words[0]?.text === 'lease' && statement.block) readLease(statement.words, statement.block, sink);
    }
  } catch (error) {
    if (!(error instanceof Broken)) throw error;
    sink.fault(error.token.line, error.token.column, error.message, 'was the file cut off? copy it while dhcpd is stopped');
  }
  return sink.done();
}

function readLease(words: readonly Token[], block: readonly Statement[], sink: RowSink): void {
  const [keyword, address] = words as [Token, Token | undefined];
  if (!address) return sink.fault(keyword.line, keyword.column, 'a lease without an address', 'this looks like the file of a client (dhclient.leases); the server has dhcpd.leases');
  const ip = parseIp4(address.text);
  if (!ip) return sink.fault(address.line, address.column, `${address.text} is no IPv4 address`);
  const find = (...start: string[]): readonly Token[] | undefined => block.find(({ words: said }) => start.every((word, i) => said[i]?.text === word && !said[i].quoted))?.words.slice(start.length);

  // Before binding states there was a statement of its own.
  const state = find('binding', 'state')?.[0]?.text ?? (find('abandoned') ? 'abandoned' : 'active');
  const ends = find('ends');
  const expiresAt = ends && timeOf(ends);
  if (ends && expiresAt === undefined) return sink.fault(ends[0]?.line ?? address.line, ends[0]?.column ?? address.column, `${ends.map((word) => word.text).join(' ') || 'nothing'} is no time`, 'ends 4 2026/01/31 12:00:00, ends epoch 1769860800, or ends never');
  if (state === 'abandoned') return sink.put(leaseRow(ip, undefined, expiresAt ?? FOREVER));
  if (state !== 'active' && state !== 'bootp') return sink.free(ip);

  const hardware = find('hardware');
  if (!hardware || hardware[0]?.text !== 'ethernet') return sink.ignore();
  const mac = hardware[1] && parseMac(hardware[1].text);
  if (!mac) return sink.fault(hardware[0].line, hardware[0].column, `${hardware[1]?.text ?? 'nothing'} is no MAC address`);
  const uid = find('uid')?.[0];
  const name = find('client-hostname')?.[0]?.text;
  sink.put(leaseRow(ip, mac, expiresAt ?? FOREVER, { hostname: name, clientId: uid && (uid.quoted ? latin1Hex(uid.text) : hexOfColons(uid.text)) }));
}

/** `4 2026/01/31 12:00:00` (UTC), `epoch 1769860800`, `never`. */
function timeOf(words: readonly Token[]): number | undefined {
  const [first, second, third] = words.map((word) => word.text);
  if (first === 'never') return FOREVER;
  if (first === 'epoch') return second !== undefined && /^\d{1,12}$/.test(second) ? Number(second) * 1000 : undefined;
  const match = /^(\d{4})\/(\d{1,2})\/(\d{1,2}) (\d{1,2}):(\d\d):(\d\d)$/.exec(`${second} ${third}`);
  if (!match) return undefined;
  const [year, month, day, hour, minute, s] = match.slice(1).map(Number) as [number, number, number, number, number, number];
  return month >= 1 && month <= 12 && day >= 1 && day <= 31 && hour < 24 && minute < 60 && s <= 60 ? Date.UTC(year, month - 1, day, hour, minute, s) : undefined;
}

function statementAt(tokens: readonly Token[], start: number): { readonly statement: Statement; readonly end: number } {
  const words: Token[] = [];
  for (let at = start; at < tokens.length; at++) {
    const token = tokens[at]!;
    if (token.quoted) words.push(token);
    else if (token.text === ';') return { statement: { words }, end: at + 1 };
    else if (token.text === '}') throw new Broken('a } that closes nothing', token);
    else if (token.text === '{') return blockAt(tokens, at, words);
    else words.push(token);
  }
  throw new Broken(`the file ends in the middle of ${words[0]?.text ?? 'a declaration'}`, tokens[start]!);
}

/** Without recursion: what a lease holds deeper down (`on expiry { … }`) is passed over. */
function blockAt(tokens: readonly Token[], open: number, words: readonly Token[]): { readonly statement: Statement; readonly end: number } {
  const block: Statement[] = [];
  let said: Token[] = [];
  let depth = 1;
  for (let at = open + 1; at < tokens.length; at++) {
    const token = tokens[at]!;
    const mark = token.quoted ? '' : token.text;
    if (mark === '{') depth++;
    else if (mark === '}') {
      if (--depth === 0) return { statement: { words, block }, end: at + 1 };
      if (depth === 1) said = [];
    } else if (depth > 1) continue;
    else if (mark === ';') {
      block.push({ words: said });
      said = [];
    } else said.push(token);
  }
  throw new Broken('the file ends inside of this block', tokens[open]!);
}

function tokensOf(text: string): Token[] {
  const tokens: Token[] = [];
  // Blanks and comments, a string, a mark, a word.
  const pattern = /(?:[ \t\r\f]+|#[^\n]*)|(\n)|"((?:[^"\\\n]|\\[^\n])*)"|([{};])|([^\s{};"#]+)|(")/g;
  let line = 1;
  let lineStart = 0;
  for (let match = pattern.exec(text); match; match = pattern.exec(text)) {
    const [, newline, quoted, mark, word, stray] = match;
    const column = match.index - lineStart + 1;
    if (newline) {
      line++;
      lineStart = match.index + 1;
    } else if (quoted !== undefined) tokens.push({ text: unescape(quoted), quoted: true, line, column });
    else if (mark ?? word) tokens.push({ text: (mark ?? word)!, quoted: false, line, column });
    else if (stray) throw new Broken('a string that does not end', { line, column });
  }
  return tokens;
}

/** Octal `\001`, and `\"` and `\\`, as dhcpd writes them. */
function unescape(text: string): string {
  return text.includes('\\') ? text.replace(/\\([0-7]{3}|.)/g, (_all, code: string) => (code.length === 3 ? String.fromCharCode(Number.parseInt(code, 8) & 255) : code)) : text;
}

function latin1Hex(text: string): string {
  return [...text].map((char) => (char.charCodeAt(0) & 255).toString(16).padStart(2, '0')).join('');
}

export function writeIsc(rows: readonly LeaseRow[]): string {
  const head = '# dhcpd.leases(5), written by rackseed\nauthoring-byte-order little-endian;\n\n';
  return head + rows.map(writeLease).join('');
}

function writeLease({ ip, mac, expiresAt, startedAt, hostname, clientId }: LeaseRow): string {
  const lines = [
    ...(startedAt === undefined ? [] : [`starts ${writeTime(startedAt)};`]),
    `ends ${writeTime(expiresAt)};`,
    `binding state ${mac === undefined ? 'abandoned' : 'active'};`,
    ...(mac === undefined ? [] : [`hardware ethernet ${mac};`]),
    ...(clientId === undefined ? [] : [`uid ${writeString(clientId)};`]),
    ...(hostname === undefined ? [] : [`client-hostname "${hostname}";`]),
  ];
  return `lease ${ip} {\n${lines.map((line) => `  ${line}\n`).join('')}}\n`;
}

function writeString(hex: string): string {
  return `"${hex.replace(/../g, (pair) => {
    const code = Number.parseInt(pair, 16);
    if (code < 0x20 || code > 0x7e) return `\\${code.toString(8).padStart(3, '0')}`;
    return code === 0x22 || code === 0x5c ? `\\${String.fromCharCode(code)}` : String.fromCharCode(code);
  })}"`;
}

function writeTime(at: number): string {
  if (at >= FOREVER) return 'never';
  const date = new Date(at);
  return `${date.getUTCDay()} ${date.toISOString().slice(0, 19).replaceAll('-', '/').replace('T', ' ')}`;
}
