-- cmsgpack of Redis' scripts. Source: the MessagePack specification (github.com/msgpack/msgpack).

local byte, sub, char, rep = string.byte, string.sub, string.char, string.rep
local concat, floor, huge = table.concat, math.floor, math.huge
local frexp, ldexp = math.frexp, math.ldexp
local type, next, error, select, unpack = type, next, error, select, unpack

local DEPTH_MAX = 16 -- as in Redis; deeper tables are nil

local function big_endian(value, size)
  local out = {}
  for index = size, 1, -1 do
    out[index], value = char(value % 256), floor(value / 256)
  end
  return concat(out)
end

local function double(value)
  if value ~= value then return "\203\127\248" .. rep("\0", 5) .. "\0" end
  local sign = (value < 0 or 1 / value < 0) and 128 or 0
  value = value < 0 and -value or value
  if value == huge then return "\203" .. char(sign + 127, 240) .. rep("\0", 6) end
  if value == 0 then return "\203" .. char(sign) .. rep("\0", 7) end
  local fraction, exponent = frexp(value)
  exponent = exponent + 1022
  if exponent <= 0 then
    fraction, exponent = ldexp(fraction, exponent), 0
  else
    fraction = fraction * 2 - 1
  end
  local whole = exponent == 0 and ldexp(fraction, 53) or ldexp(fraction, 52)
  return "\203" .. char(sign + floor(exponent / 16), exponent % 16 * 16 + floor(whole / 2^48))
    .. big_endian(whole % 2^48, 6)
end

local function integer(value)
  if value >= 0 then
    if value < 128 then return char(value) end
    if value < 256 then return "\204" .. char(value) end
    if value < 65536 then return "\205" .. big_endian(value, 2) end
    if value < 2^32 then return "\206" .. big_endian(value, 4) end
    return "\207" .. big_endian(value, 8)
  end
  if value >= -32 then return char(256 + value) end
  if value >= -128 then return "\208" .. char(256 + value) end
  if value >= -32768 then return "\209" .. big_endian(65536 + value, 2) end
  if value >= -2^31 then return "\210" .. big_endian(2^32 + value, 4) end
  local high, low = floor(value / 2^32), value % 2^32
  return "\211" .. big_endian(2^32 + high, 4) .. big_endian(low, 4)
end

local function head(size, short, short_max, codes)
  if size < short_max then return char(short + size) end
  if codes[1] and size < 256 then return char(codes[1], size) end
  if size < 65536 then return char(codes[2]) .. big_endian(size, 2) end
  return char(codes[3]) .. big_endian(size, 4)
end

local function array_size(value)
  local count, most = 0, 0
  for key in next, value do
    if type(key) ~= "number" or key < 1 or key ~= floor(key) then return nil end
    count = count + 1
    if key > most then most = key end
  end
  return most == count and count or nil
end

local function pack(value, out, depth)
  local kind = type(value)
  if kind == "string" then
    out[#out + 1] = head(#value, 160, 32, {217, 218, 219})
    out[#out + 1] = value
  elseif kind == "number" then
    local is_whole = value == floor(value) and value >= -2^63 and value < 2^64
    out[#out + 1] = is_whole and integer(value) or double(value)
  elseif kind == "boolean" then out[#out + 1] = value and "\195" or "\194"
  elseif kind == "table" and depth < DEPTH_MAX then
    local size = array_size(value)
    if size then
      out[#out + 1] = head(size, 144, 16, {nil, 220, 221})
      for index = 1, size do pack(value[index], out, depth + 1) end
      return
    end
    local place, count = #out + 1, 0
    out[place] = ""
    for key, item in next, value do
      pack(key, out, depth + 1)
      pack(item, out, depth + 1)
      count = count + 1
    end
    out[place] = head(count, 128, 16, {nil, 222, 223})
  else
    out[#out + 1] = "\192"
  end
end

local function number_at(text, at, size)
  local last = at + size - 1
  if last > #text then error("Missing bytes in input.", 0) end
  local value = 0
  for index = at, last do value = value * 256 + byte(text, index) end
  return value
end

local function signed_at(text, at, size)
  local high = number_at(text, at, size > 4 and 4 or size)
  local bits = size > 4 and 32 or size * 8
  if high >= 2^(bits - 1) then high = high - 2^bits end
  return size > 4 and high * 2^32 + number_at(text, at + 4, 4) or high
end

local function float_at(text, at, exponent_bits, fraction_bits)
  local size = (1 + exponent_bits + fraction_bits) / 8
  local high, low = number_at(text, at, 4), size == 8 and number_at(text, at + 4, 4) or 0
  local sign = high >= 2^31 and -1 or 1
  high = high % 2^31
  local shift = 2^(31 - exponent_bits)
  local exponent, fraction = floor(high / shift), high % shift * (size == 8 and 2^32 or 1) + low
  local most, bias = 2^exponent_bits - 1, 2^(exponent_bits - 1) - 1
  if exponent == most then return fraction == 0 and sign * huge or 0 / 0 end
  if exponent == 0 then return sign * ldexp(fraction, 1 - bias - fraction_bits) end
  return sign * ldexp(1 + fraction / 2^fraction_bits, exponent - bias)
end

local value_at

local function text_at(text, at, size)
  if at + size - 1 > #text then error("Missing bytes in input.", 0) end
  return sub(text, at, at + size - 1), at + size
end

local function array_at(text, at, size, depth)
  local found = {}
  for index = 1, size do found[index], at = value_at(text, at, depth) end
  return found, at
end

local function map_at(text, at, size, depth)
  local found, key, value = {}, nil, nil
  for _ = 1, size do
    key, at = value_at(text, at, depth)
    value, at = value_at(text, at, depth)
    if key ~= nil then found[key] = value end
  end
  return found, at
end

-- By the first byte: what reads the rest, and how many bytes its size or number has.
local KINDS = {
  [204] = {number_at, 1}, [205] = {number_at, 2}, [206] = {number_at, 4}, [207] = {number_at, 8},
  [208] = {signed_at, 1}, [209] = {signed_at, 2}, [210] = {signed_at, 4}, [211] = {signed_at, 8},
}
local SIZED = {
  [217] = {text_at, 1}, [218] = {text_at, 2}, [219] = {text_at, 4},
  [196] = {text_at, 1}, [197] = {text_at, 2}, [198] = {text_at, 4},
  [220] = {array_at, 2}, [221] = {array_at, 4}, [222] = {map_at, 2}, [223] = {map_at, 4},
}

function value_at(text, at, depth)
  local kind = byte(text, at)
  if kind == nil then error("Missing bytes in input.", 0) end
  if depth > 1000 then error("Bad data format in input.", 0) end
  at = at + 1
  if kind < 128 then return kind, at end
  if kind >= 224 then return kind - 256, at end
  if kind >= 160 and kind < 192 then return text_at(text, at, kind - 160) end
  if kind < 144 then return map_at(text, at, kind - 128, depth + 1) end
  if kind < 160 then return array_at(text, at, kind - 144, depth + 1) end
  if KINDS[kind] then
    local read, size = KINDS[kind][1], KINDS[kind][2]
    return read(text, at, size), at + size
  end
  if SIZED[kind] then
    local read, size = SIZED[kind][1], SIZED[kind][2]
    return read(text, at + size, number_at(text, at, size), depth + 1)
  end
  if kind == 192 then return nil, at end
  if kind == 194 or kind == 195 then return kind == 195, at end
  if kind == 202 then return float_at(text, at, 8, 23), at + 4 end
  if kind == 203 then return float_at(text, at, 11, 52), at + 8 end
  error("Bad data format in input.", 0)
end

local msgpack = {_NAME = "cmsgpack", _VERSION = "lua-cmsgpack 0.4.0"}

function msgpack.pack(...)
  if select("#", ...) == 0 then error("bad argument #0 to 'pack' (MessagePack pack needs input.)", 0) end
  local out = {}
  for index = 1, select("#", ...) do pack((select(index, ...)), out, 0) end
  return concat(out)
end

function msgpack.unpack(text)
  local found, count, at = {}, 0, 1
  while at <= #text do
    count = count + 1
    found[count], at = value_at(text, at, 0)
  end
  return unpack(found, 1, count)
end

return msgpack
