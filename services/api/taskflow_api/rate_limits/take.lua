-- Takes tokens from buckets; each take is from all of its buckets or from none. bucket.py says how
-- they count. All numbers are whole and below 2^53, which doubles hold exactly.
--
-- KEYS: the buckets of all takes; what each holds is "<debt> <at, ms>", and nothing once it is full.
-- ARGV: for each take its cost and how many buckets, then quota and window (ms) of each.
-- Returns for each take 1 or 0, then what each of its buckets owes, in one text: quick to read.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function debt_now(key, quota, window)
  local debt, at = string.match(redis.call('GET', key) or '', '^(%d+) (%d+)$')
  if not debt then
    return 0
  end
  return math.max(0, debt - math.max(0, math.min(now - at, window)) * quota)
end

local answer = {}
local key, arg = 1, 1
while arg < #ARGV do
  local cost, count = tonumber(ARGV[arg]), tonumber(ARGV[arg + 1])
  local quotas, debts, prices, granted = {}, {}, {}, true
  for i = 1, count do
    local quota, window = tonumber(ARGV[arg + 2 * i]), tonumber(ARGV[arg + 2 * i + 1])
    quotas[i] = quota
    debts[i] = debt_now(KEYS[key + i - 1], quota, window)
    prices[i] = math.min(cost, quota) * window
    granted = granted and debts[i] + prices[i] <= quota * window
  end
  answer[#answer + 1] = granted and 1 or 0
  for i = 1, count do
    local debt = granted and debts[i] + prices[i] or debts[i]
    if debt > 0 then
      local value = string.format('%.0f %.0f', debt, now)
      redis.call('SET', KEYS[key + i - 1], value, 'PX', math.ceil(debt / quotas[i]))
    end
    answer[#answer + 1] = string.format('%.0f', debt)
  end
  key, arg = key + count, arg + 2 + 2 * count
end
return table.concat(answer, ' ')
