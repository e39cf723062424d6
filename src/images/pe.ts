// Sections for a PE32+ program: what `objcopy --add-section` does, with addresses that cannot overlap and bytes that depend on the input alone.

/** Little-endian all of it; offsets by Microsoft's "PE Format": COFF header, optional header of PE32+, section table. */
const [PE_POINTER, COFF_SIZE, SECTION_SIZE, PE32_PLUS] = [0x3c, 24, 40, 0x20b];
const [OPT_DATA_SIZE, OPT_SECTION_ALIGN, OPT_FILE_ALIGN, OPT_IMAGE_SIZE, OPT_HEADERS_SIZE, OPT_CHECKSUM, OPT_DIRECTORIES] = [8, 32, 36, 56, 60, 64, 112];
/** The certificate table's entry in the data directory: a signature. */
const CERTIFICATES = 4;
/** IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ. */
const READ_ONLY_DATA = 0x40000040;

export interface PeSection {
  /** At most 8 bytes of ASCII, the dot among them. */
  readonly name: string;
  readonly data: Uint8Array;
}

export interface PePlace {
  readonly name: string;
  /** Bytes from the image's base in memory, and how many there. */
  readonly address: number;
  readonly size: number;
  /** Bytes from the start of the file, and how many there. */
  readonly offset: number;
  readonly fileSize: number;
}

interface Headers {
  readonly coff: number;
  readonly optional: number;
  readonly table: number;
  readonly count: number;
}

/** RangeError for what is no PE32+ file. */
function headersOf(file: Buffer): Headers {
  const coff = file.length >= 0x40 && file.toString('latin1', 0, 2) === 'MZ' ? file.readUInt32LE(PE_POINTER) : -1;
  if (coff < 0 || coff + COFF_SIZE + OPT_DIRECTORIES > file.length || file.toString('latin1', coff, coff + 4) !== 'PE\0\0') throw new RangeError('no PE file');
  const optional = coff + COFF_SIZE;
  if (file.readUInt16LE(optional) !== PE32_PLUS) throw new RangeError('no PE32+ file');
  const table = optional + file.readUInt16LE(coff + 20);
  const count = file.readUInt16LE(coff + 6);
  if (table + count * SECTION_SIZE > file.length) throw new RangeError('its section table is cut off');
  return { coff, optional, table, count };
}

export function peSections(file: Buffer): PePlace[] {
  const { table, count } = headersOf(file);
  return Array.from({ length: count }, (_, index) => {
    const at = table + index * SECTION_SIZE;
    const [size, address, fileSize, offset] = [8, 12, 16, 20].map((field) => file.readUInt32LE(at + field)) as [number, number, number, number];
    return { name: file.toString('latin1', at, at + 8).replace(/\0+$/, ''), address, size, offset, fileSize };
  });
}

/**
 * The program with these sections behind its own, each page-aligned in memory and as large there as its data. RangeError when it is no PE32+
 * file, is signed already, has one of them, or has no room for their headers.
 */
export function withSections(program: Uint8Array, sections: readonly PeSection[]): Buffer {
  const file = Buffer.from(program);
  const { coff, optional, table, count } = headersOf(file);
  const own = peSections(file);
  const [alignment, fileAlignment, headersSize] = [OPT_SECTION_ALIGN, OPT_FILE_ALIGN, OPT_HEADERS_SIZE].map((field) => file.readUInt32LE(optional + field)) as [number, number, number];
  if (alignment < 1 || fileAlignment < 1) throw new RangeError('its sections have no alignment');
  const twice = sections.find(({ name }, index) => name.length > 8 || [...own, ...sections.slice(0, index)].some((other) => other.name === name));
  if (twice) throw new RangeError(`section ${twice.name} cannot be added`);
  if (file.readUInt32LE(optional + OPT_DIRECTORIES + CERTIFICATES * 8) !== 0) throw new RangeError('it is signed already');
  const first = Math.min(headersSize, ...own.filter(({ fileSize }) => fileSize > 0).map(({ offset }) => offset));
  if (table + (count + sections.length) * SECTION_SIZE > first) throw new RangeError(`there is no room for ${sections.length} more section headers`);

  // Rather lose what stands behind the last section (a debugger's symbols) than have it taken for one of ours.
  const end = Math.max(headersSize, ...own.map(({ offset, fileSize }) => offset + fileSize));
  const pieces = [padded(file.subarray(0, end), fileAlignment)];
  let offset = pieces[0]!.length;
  let address = up(Math.max(...own.map((section) => section.address + Math.max(section.size, section.fileSize))), Math.max(alignment, 4096));
  let added = 0;
  for (const [index, { name, data }] of sections.entries()) {
    const header = pieces[0]!.subarray(table + (count + index) * SECTION_SIZE, table + (count + index + 1) * SECTION_SIZE).fill(0);
    const body = padded(data, fileAlignment);
    header.write(name, 'latin1');
    for (const [field, value] of [[8, data.length], [12, address], [16, body.length], [20, offset], [36, READ_ONLY_DATA]] as const) header.writeUInt32LE(value, field);
    pieces.push(body);
    offset += body.length;
    added += body.length;
    address = up(address + data.length, Math.max(alignment, 4096));
  }
  const head = pieces[0]!;
  head.writeUInt16LE(count + sections.length, coff + 6);
  head.writeUInt32LE(head.readUInt32LE(optional + OPT_DATA_SIZE) + added, optional + OPT_DATA_SIZE);
  head.writeUInt32LE(up(address, alignment), optional + OPT_IMAGE_SIZE);
  // 0: not computed. No firmware looks at it, and a wrong one would be worse.
  head.writeUInt32LE(0, optional + OPT_CHECKSUM);
  return Buffer.concat(pieces);
}

function up(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment;
}

function padded(data: Uint8Array, alignment: number): Buffer {
  const whole = Buffer.alloc(up(data.length, alignment));
  whole.set(data);
  return whole;
}
