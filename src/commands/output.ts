// How commands print: a table for people, JSON or YAML for programs.
import { stringify } from 'yaml';
import { AppError } from '../errors.ts';

export const FORMATS = ['table', 'wide', 'json', 'yaml'] as const;
export type Format = (typeof FORMATS)[number];

export function parseFormat(text: string): Format {
  const format = FORMATS.find((known) => known === text);
  if (!format) throw new AppError('USAGE', `unknown output format ${text}`, `one of ${FORMATS.join(', ')}`);
  return format;
}

export interface Column<Row> {
  readonly title: string;
  readonly of: (row: Row) => string | number | undefined;
  /** Shown with `-o wide` only. */
  readonly wide?: boolean;
}

/** `value` is what programs get; rows and columns are what people see. Missing cells are `-`, as kubectl shows them. */
export function render<Row>(format: Format, value: unknown, rows: readonly Row[], columns: readonly Column<Row>[]): string {
  if (format === 'json') return `${JSON.stringify(value, null, 2)}\n`;
  if (format === 'yaml') return stringify(JSON.parse(JSON.stringify(value)));
  const shown = columns.filter((column) => format === 'wide' || !column.wide);
  const cells = [shown.map((column) => column.title), ...rows.map((row) => shown.map((column) => clean(column.of(row))))];
  const widths = shown.map((_column, index) => Math.max(...cells.map((line) => line[index]!.length)));
  return cells.map((line) => `${line.map((cell, index) => cell.padEnd(widths[index]!)).join('   ').trimEnd()}\n`).join('');
}

/** Text of machines must not move the cursor of the person who reads it. */
function clean(cell: string | number | undefined): string {
  const text = cell === undefined || cell === '' ? '-' : String(cell);
  return text.replace(/[\x00-\x1f\x7f-\x9f]/g, '?');
}

/** `3m12s`: how long ago, or how long it took. */
export function duration(ms: number): string {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 120) return `${s}s`;
  if (s < 7200) return `${Math.floor(s / 60)}m${s % 60 ? `${s % 60}s` : ''}`;
  return s < 172_800 ? `${Math.floor(s / 3600)}h` : `${Math.floor(s / 86_400)}d`;
}

export function bytes(n: number): string {
  if (n < 1024) return `${n} B`;
  const units = ['KiB', 'MiB', 'GiB', 'TiB'];
  let value = n / 1024;
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
  return `${value.toFixed(1)} ${units[unit]}`;
}
