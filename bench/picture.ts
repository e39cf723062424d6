// Draws panels of horizontal bars as an SVG by hand: no library, and legible on a light or a dark page.
export interface Bars {
  readonly label: string;
  /** Small, under the label: a target and whether it is met. */
  readonly note?: { readonly text: string; readonly good: boolean };
  /** One for each name, in the same order. */
  readonly values: readonly (number | undefined)[];
}

export interface Panel {
  readonly title: string;
  readonly unit: string;
  readonly better: 'higher' | 'lower';
  /** Logarithmic, for figures that lie decades apart. */
  readonly log?: boolean;
  readonly groups: readonly Bars[];
}

export interface Picture {
  readonly title: string;
  readonly subtitle: string;
  /** Ours first. */
  readonly names: readonly string[];
  /** Two panels side by side in each row. */
  readonly rows: readonly (readonly Panel[])[];
  readonly footer: readonly string[];
}

const WIDTH = 1080;
const MARGIN = 28;
const GAP = 24;
const BAR = 13;
const LABEL = 152;
const VALUE = 62;
const COLOURS = ['#0b7285', '#f08c00', '#868e96', '#7048e8'];
const INK = '#212529';
const FAINT = '#6b7280';

export function draw({ title, subtitle, names, rows, footer }: Picture): string {
  const parts: string[] = [];
  let y = 44;
  parts.push(words(MARGIN, y, title, { size: 22, weight: 600 }), words(MARGIN, (y += 24), subtitle, { fill: FAINT }));
  y += 26;
  let x = MARGIN;
  names.forEach((name, index) => {
    parts.push(`<rect x="${x}" y="${y - 11}" width="12" height="12" rx="2" fill="${COLOURS[index]}"/>`, words(x + 18, y, name, { size: 13, weight: index === 0 ? 600 : 400 }));
    x += 18 + 8 * name.length + 28;
  });
  y += 20;
  for (const row of rows) {
    const width = (WIDTH - 2 * MARGIN - GAP * (row.length - 1)) / row.length;
    const height = Math.max(...row.map((panel) => heightOf(panel, names.length)));
    row.forEach((panel, index) => parts.push(drawPanel(panel, names.length, MARGIN + index * (width + GAP), y, width, height)));
    y += height + GAP;
  }
  footer.forEach((line) => (parts.push(words(MARGIN, y, line, { size: 11, fill: FAINT })), (y += 16)));
  y += 8;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${y}" viewBox="0 0 ${WIDTH} ${y}" font-family="system-ui, 'DejaVu Sans', sans-serif" role="img">
<title>${escape(title)}</title>
<rect width="${WIDTH}" height="${y}" rx="10" fill="#f1f3f5"/>
${parts.join('\n')}
</svg>
`;
}

const groupHeight = (group: Bars, bars: number) => Math.max(bars * (BAR + 2), group.note ? 34 : 18) + 14;
const heightOf = (panel: Panel, bars: number) => 52 + panel.groups.reduce((sum, group) => sum + groupHeight(group, bars), 0);

function drawPanel({ title, unit, better, log, groups }: Panel, bars: number, x: number, y: number, width: number, height: number): string {
  const parts = [
    `<rect x="${x}" y="${y}" width="${width}" height="${height}" rx="8" fill="#ffffff" stroke="#dee2e6"/>`,
    words(x + 16, y + 26, title, { size: 14, weight: 600 }),
    words(x + width - 16, y + 26, `${unit}${log ? ', log scale' : ''}, ${better} is better`, { size: 11, fill: FAINT, end: true }),
  ];
  const values = groups.flatMap((group) => group.values.filter((value) => value !== undefined));
  const most = Math.max(...values, 0);
  // A logarithm has no zero: half a decade below the smallest stands for it.
  const least = log ? Math.min(...values.filter((value) => value > 0), most) / 3 : 0;
  const room = width - LABEL - VALUE - 32;
  const lengthOf = (value: number) => (most === 0 || value <= least ? 0 : log ? (Math.log(value / least) / Math.log(most / least)) * room : (value / most) * room);
  let at = y + 46;
  for (const group of groups) {
    parts.push(words(x + 16, at + 12, group.label, { size: 12 }));
    if (group.note) parts.push(words(x + 16, at + 28, group.note.text, { size: 11, fill: group.note.good ? '#2b8a3e' : '#c92a2a', weight: 600 }));
    group.values.slice(0, bars).forEach((value, index) => {
      const top = at + index * (BAR + 2);
      const left = x + 16 + LABEL;
      const length = value === undefined ? 0 : Math.max(lengthOf(value), 1.5);
      if (value !== undefined) parts.push(`<rect x="${left}" y="${top}" width="${length.toFixed(1)}" height="${BAR}" rx="2" fill="${COLOURS[index]}"/>`);
      parts.push(words(left + length + 6, top + 10.5, value === undefined ? 'not measured' : short(value), { size: 11, weight: index === 0 ? 600 : 400, fill: index === 0 ? INK : FAINT }));
    });
    at += groupHeight(group, bars);
  }
  return parts.join('\n');
}

function words(x: number, y: number, text: string, { size = 13, weight = 400, fill = INK, end = false }: { readonly size?: number; readonly weight?: number; readonly fill?: string; readonly end?: boolean } = {}): string {
  return `<text x="${x}" y="${y}" font-size="${size}" fill="${fill}"${weight === 400 ? '' : ` font-weight="${weight}"`}${end ? ' text-anchor="end"' : ''}>${escape(text)}</text>`;
}

function escape(text: string): string {
  return text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');
}

function short(value: number): string {
  return value >= 1000 ? Math.round(value).toLocaleString('en-US') : value === 0 ? '0' : String(Number(value.toPrecision(3)));
}
